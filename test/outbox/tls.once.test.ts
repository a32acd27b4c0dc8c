import { once } from 'node:events';
import { createServer, type Server } from 'node:https';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { egressPolicy } from '../../src/outbox/egress.ts';
import { createEgressAgent } from '../../src/outbox/egress-agent.ts';
import { attempt } from '../support/attempt.ts';
import { type Certificate, makeCertificates, type TestCertificates } from '../support/certificates.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startLiventix } from '../support/liventix.ts';
import { addTestEndpoint, announce, clearOutbox } from '../support/outbox.ts';
import { startReceiver } from '../support/receiver.ts';

const ALLOW = ['127.0.0.0/8', '::1/128'];

interface SecureReceiver {
  readonly url: string;
  /** Of whatever kind, once they were decrypted. */
  bytes(): number;
  connections(): number;
  requests(): number;
  stop(): Promise<void>;
}

async function startSecureReceiver(certificate: Certificate): Promise<SecureReceiver> {
  let [bytes, connections, requests] = [0, 0, 0];
  const server: Server = createServer(certificate, (request, response) => {
    requests += 1;
    request.resume().on('end', () => response.writeHead(204).end());
  });
  server.on('connection', () => {
    connections += 1;
  });
  server.on('secureConnection', (socket) => {
    socket.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  return {
    url: `https://localhost:${typeof address === 'object' && address !== null ? address.port : 0}/`,
    bytes: () => bytes,
    connections: () => connections,
    requests: () => requests,
    stop: async () => {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

let certificates: TestCertificates;
beforeAll(() => {
  certificates = makeCertificates();
});
afterAll(() => certificates.remove());

describe('a worker, by what its environment says', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await createDatabase();
  });
  afterEach(() => clearOutbox(database.pool));
  afterAll(() => database.drop());

  /** The first attempt that a worker of its own makes at a receiver with this certificate. */
  const firstAttempt = async (certificate: Certificate, env: () => Record<string, string>) => {
    const receiver = await startSecureReceiver(certificate);
    await addTestEndpoint(database.pool, { url: receiver.url });
    await announce(database.pool);
    const worker = startLiventix(['worker'], {
      DATABASE_URL: database.url,
      OUTBOX_EGRESS_ALLOW: ALLOW.join(','),
      LOG_LEVEL: 'silent',
      ...env(),
    });
    const [row] = await eventually('an attempt is recorded', async () => {
      const { rows } = await database.pool.query('select error_class, error, status_code from outbox.attempts');
      return rows.length > 0 && rows;
    });
    worker.kill('SIGTERM');
    await worker.done;
    await receiver.stop();
    expect(receiver.connections()).toBeGreaterThan(0);
    return { ...row, bytes: receiver.bytes(), requests: receiver.requests() };
  };
  const trusting = () => ({ NODE_EXTRA_CA_CERTS: certificates.caFile });

  it('trusts a CA of the company that NODE_EXTRA_CA_CERTS names', async () => {
    expect(await firstAttempt(certificates.good, trusting)).toMatchObject({
      error_class: null,
      status_code: 204,
      requests: 1,
    });
  });

  it.each<[string, () => Certificate, () => Record<string, string>, RegExp]>([
    ['whose CA nobody knows', () => certificates.good, () => ({}), /verify|issuer/],
    ['that is signed by itself', () => certificates.selfSigned, trusting, /self-signed/],
    ['for another host', () => certificates.wrongHost, trusting, /altnames/],
    ['that has expired', () => certificates.expired, trusting, /expired/],
    [
      'that nobody knows, whatever NODE_TLS_REJECT_UNAUTHORIZED says',
      () => certificates.selfSigned,
      () => ({ NODE_TLS_REJECT_UNAUTHORIZED: '0' }),
      /self-signed/,
    ],
    [
      'for another host, whatever NODE_TLS_REJECT_UNAUTHORIZED says',
      () => certificates.wrongHost,
      () => ({ ...trusting(), NODE_TLS_REJECT_UNAUTHORIZED: '0' }),
      /altnames/,
    ],
  ])('sends nothing to who has a certificate %s', async (_which, certificate, env, error) => {
    expect(await firstAttempt(certificate(), env)).toEqual({
      error_class: 'tls_failed',
      error: expect.stringMatching(error),
      status_code: null,
      bytes: 0,
      requests: 0,
    });
  });
});

describe('https', () => {
  it('to who breaks the handshake off says in one line of words that TLS failed, and why', async () => {
    const agent = createEgressAgent(egressPolicy(ALLOW));
    const server = createServer({ ...certificates.good, maxVersion: 'TLSv1.1', minVersion: 'TLSv1' }).listen(0);
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    const outcome = await attempt(agent, `https://127.0.0.1:${port}/`);
    expect(outcome).toMatchObject({
      errorClass: 'tls_failed',
      error: expect.stringMatching(/^TLS failed: [\w ]+$/),
    });
    await agent.close();
    server.close();
  });

  it('to a port that speaks http fails as TLS, and no request is seen', async () => {
    const agent = createEgressAgent(egressPolicy(ALLOW));
    const receiver = await startReceiver();
    const outcome = await attempt(agent, receiver.url.replace('http:', 'https:'));
    expect(outcome).toMatchObject({
      status: 'failed',
      errorClass: 'tls_failed',
      error: expect.stringMatching(/^no TLS is spoken there \([a-z ]+\)$/),
    });
    expect(receiver.received).toHaveLength(0);
    await agent.close();
    await receiver.stop();
  });
});
