import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import { Webhook } from 'standardwebhooks';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Receiver, startReceiver } from '../../src/demo/receiver.ts';

const newSecret = () => `whsec_${randomBytes(24).toString('base64')}`;

describe('the demo receiver', () => {
  const secret = newSecret();
  let receiver: Receiver;
  beforeEach(async () => {
    receiver = await startReceiver({ secrets: [secret] });
  });
  afterEach(() => receiver.stop());

  const body = JSON.stringify({ type: 'ledger.posted', data: { note: 'Zürich ✓' } });
  const signed = (given: { id?: string; body?: string; secret?: string; at?: Date } = {}) => {
    const { id = 'msg_1', at = new Date() } = given;
    return {
      'webhook-id': id,
      'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
      'webhook-signature': new Webhook(given.secret ?? secret).sign(id, at, given.body ?? body),
    };
  };
  const post = async (sent: string | Uint8Array<ArrayBuffer>, headers: Record<string, string>) =>
    (await fetch(receiver.url, { method: 'POST', body: sent, headers })).status;

  it('verifies what one of its secrets signed, and counts it by topic', async () => {
    expect(await post(body, signed())).toBe(204);
    expect(await post('{"type":"escrow.released"}', signed({ id: 'msg_2', body: '{"type":"escrow.released"}' }))).toBe(
      204,
    );
    expect(receiver.counts()).toEqual({
      received: 2,
      verified: 2,
      rejected: 0,
      distinctMessages: 2,
      byTopic: { 'ledger.posted': 1, 'escrow.released': 1 },
    });
  });

  it('counts a message that is delivered twice as one message', async () => {
    await post(body, signed());
    await post(body, signed());
    expect(receiver.counts()).toMatchObject({ received: 2, verified: 2, distinctMessages: 1 });
  });

  it.each([
    ['carries no signature', body, {}],
    ['was signed with another secret', body, signed({ secret: newSecret() })],
    ['had its body changed', body.replace('ü', 'u'), signed()],
    ['had a space added to its body', `${body} `, signed()],
    ['carries the signature of another message', body, { ...signed(), 'webhook-id': 'msg_2' }],
    ['was signed an hour ago', body, signed({ at: new Date(Date.now() - 3_600_000) })],
    ['has a signature that is no base64', body, { ...signed(), 'webhook-signature': 'v1,!' }],
  ])('answers 401 to a request that %s', async (_, sent, headers) => {
    expect(await post(sent, headers)).toBe(401);
    expect(receiver.counts()).toMatchObject({
      received: 1,
      verified: 0,
      rejected: 1,
      distinctMessages: 0,
      byTopic: {},
    });
  });

  it('answers 401 to bytes that only look like the signed text once they are decoded', async () => {
    const text = 'ok \uFFFD';
    expect(await post(text, signed({ body: text }))).toBe(204);
    expect(await post(Uint8Array.from([...Buffer.from('ok '), 0xff]), signed({ body: text }))).toBe(401);
  });

  it('takes new secrets while it runs', async () => {
    const next = newSecret();
    receiver.setSecrets([next, secret]);
    expect(await post(body, signed({ secret: next }))).toBe(204);
    receiver.setSecrets([next]);
    expect(await post(body, signed())).toBe(401);
  });

  it('reads no more than a mebibyte, and counts nothing of it', async () => {
    const large = 'x'.repeat(1024 * 1024 + 1);
    const status = await post(large, signed({ body: large })).catch(() => 'reset');
    expect(status === 413 || status === 'reset').toBe(true);
    expect(receiver.counts()).toMatchObject({ received: 0 });
    const largest = JSON.stringify({ type: 'x'.repeat(1024 * 1024 - 11) });
    expect(await post(largest, signed({ body: largest }))).toBe(204);
  });

  it('answers 405 to anything but POST', async () => {
    expect((await fetch(receiver.url)).status).toBe(405);
  });

  it('survives a sender that goes away in the middle of its body', async () => {
    const { port } = new URL(receiver.url);
    const socket = connect(Number(port), '127.0.0.1');
    await new Promise((resolve) =>
      socket.write('POST /webhooks HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf', resolve),
    );
    socket.destroy();
    expect(await post(body, signed())).toBe(204);
    expect(receiver.counts()).toMatchObject({ received: 1 });
  });

  it('tells when a condition on its counts holds, and when it did not in time', async () => {
    const arrived = receiver.until((counts) => counts.verified === 2, 10_000);
    await post(body, signed());
    await post(body, signed({ id: 'msg_2' }));
    expect(await arrived).toBe(true);
    expect(await receiver.until((counts) => counts.verified === 3, 1)).toBe(false);
  });

  it('listens on loopback only, and can be stopped twice', async () => {
    expect(new URL(receiver.url).hostname).toBe('127.0.0.1');
    await receiver.stop();
    await receiver.stop();
    await expect(post(body, signed())).rejects.toThrow();
  });
});
