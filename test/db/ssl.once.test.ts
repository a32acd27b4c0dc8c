import { chown, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { migrate } from '../../src/db/migrate.ts';
import { type LocalServer, startLocalServer } from '../../src/db/server.ts';
import { eventually } from '../support/eventually.ts';
import { liventix, startLiventix } from '../support/liventix.ts';
import { query } from '../support/query.ts';

// A certificate for 127.0.0.1 that nobody else signed, until 2120, and its key, which guards nothing.
const CERTIFICATE = `-----BEGIN CERTIFICATE-----
MIIBZTCCAQqgAwIBAgIBATAKBggqhkjOPQQDAjAYMRYwFAYDVQQDDA1saXZlbnRp
eCB0ZXN0MCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAYMRYwFAYD
VQQDDA1saXZlbnRpeCB0ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMA5b
iJm+oph0sTURJWMlby+HXW+I7uDZkxy5t2lZNRedxqj61PHHfPhAXvGRD9nrAVVI
CKKQTjfWaZDyLN9GL6NDMEEwDwYDVR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/
AAABMB0GA1UdDgQWBBSpy0n5b8xDuQoih8DU/V1rdp8DFzAKBggqhkjOPQQDAgNJ
ADBGAiEA0PjtO1GR+k/XpG2lqT/iQdlIY+LcaM21EkeQmf1DfV4CIQD6T/Q/fqo+
VMPUx7QiEZTmR0hLNSIKylGB+K/a25lyDA==
-----END CERTIFICATE-----
`;
const KEY = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgmuAALgRpH97JJnYL
yqVLunr6Y4KvhYAVKfy4nUwIcUChRANCAAQwDluImb6imHSxNRElYyVvL4ddb4ju
4NmTHLm3aVk1F53GqPrU8cd8+EBe8ZEP2esBVUgIopBON9ZpkPIs30Yv
-----END PRIVATE KEY-----
`;

const UNTRUSTED = /^liventix: DB_UNREACHABLE: No trusted SSL [^\n]*self-signed certificate[^\n]*sslrootcert=[^\n]+\n$/;
const NO_SSL = /^liventix: DB_UNREACHABLE: The server does not support SSL[^\n]*sslmode=disable[^\n]+\n$/;

const withParameters = (url: string, parameters: string) => `${url}?${parameters}`;
const migrateStatus = (url: string) => liventix(['migrate', 'status'], { DATABASE_URL: url });

describe('a server with SSL', () => {
  let stateDir: string;
  let server: LocalServer;
  let rootCertificate: string;
  beforeAll(async () => {
    stateDir = await mkdtemp(join(tmpdir(), 'liventix-ssl-'));
    rootCertificate = join(stateDir, 'root.pem');
    await writeFile(rootCertificate, CERTIFICATE);
    server = await startLocalServer({ stateDir, settings: ['fsync=off'] });
    await switchSslOn(server.adminUrl);
    await migrate(server.adminUrl);
  });
  afterAll(async () => {
    await server.stop();
    await rm(stateDir, { recursive: true, force: true });
  });

  it.each(['disable', 'allow', 'prefer', 'require', 'no-verify'])(
    'is reached with sslmode=%s, without a word',
    async (mode) => {
      expect(await migrateStatus(withParameters(server.adminUrl, `sslmode=${mode}`))).toMatchObject({
        exitCode: 0,
        stderr: '',
      });
    },
  );

  it.each(['require', 'verify-ca', 'verify-full'])('is reached with sslmode=%s and its CA', async (mode) => {
    const url = withParameters(server.adminUrl, `sslmode=${mode}&sslrootcert=${rootCertificate}`);
    expect(await migrateStatus(url)).toMatchObject({ exitCode: 0, stderr: '' });
  });

  it('is not believed without its CA where the certificate has to prove itself', async () => {
    const run = await migrateStatus(withParameters(server.adminUrl, 'sslmode=verify-full'));
    expect(run).toMatchObject({ exitCode: 3, stdout: '', stderr: expect.stringMatching(UNTRUSTED) });
  });

  it('serves a worker, through each of its kinds of connection, without a word', async () => {
    const worker = startLiventix(['worker'], {
      DATABASE_URL: withParameters(server.adminUrl, 'sslmode=require'),
      LOG_LEVEL: 'warn',
    });
    const connections = async () => {
      const rows = await query(
        server.adminUrl,
        `select distinct application_name as name from pg_stat_activity join pg_stat_ssl using (pid)
         where ssl and application_name ~ 'liventix-(worker|listen|queue)'`,
      );
      return rows.length === 3;
    };
    try {
      await eventually('worker, listener and queue are connected by SSL', connections);
    } finally {
      worker.kill('SIGTERM');
    }
    expect(await worker.done).toMatchObject({
      exitCode: 0,
      stderr: 'liventix worker draining\nliventix worker stopped\n',
    });
  });
});

describe('a server without SSL', () => {
  it('is reached with sslmode=disable', async () => {
    const run = await migrateStatus(withParameters(inject('ownerUrl'), 'sslmode=disable'));
    expect(run).toMatchObject({ exitCode: 1, stderr: '', stdout: expect.stringContaining('pending') });
  });

  it.each(['prefer', 'require', 'verify-full', 'no-verify'])('is named as such with sslmode=%s', async (mode) => {
    const run = await migrateStatus(withParameters(inject('ownerUrl'), `sslmode=${mode}`));
    expect(run).toMatchObject({ exitCode: 3, stdout: '', stderr: expect.stringMatching(NO_SSL) });
  });
});

async function switchSslOn(adminUrl: string): Promise<void> {
  const [row] = await query<{ data_directory: string }>(adminUrl, 'show data_directory');
  const dataDir = row?.data_directory ?? '';
  const { uid, gid } = await stat(dataDir);
  // The names that the server looks for by itself; the key has to be its account's alone.
  for (const [name, text] of Object.entries({ 'server.crt': CERTIFICATE, 'server.key': KEY })) {
    await writeFile(join(dataDir, name), text, { mode: 0o600 });
    await chown(join(dataDir, name), uid, gid);
  }
  await query(adminUrl, 'alter system set ssl = on');
  await query(adminUrl, 'select pg_reload_conf()');
  await eventually('new connections may use SSL', async () => {
    const [answer] = await query<{ ssl: string }>(adminUrl, 'show ssl');
    return answer?.ssl === 'on';
  });
}
