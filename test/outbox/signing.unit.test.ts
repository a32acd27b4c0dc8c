import { createPublicKey, verify } from 'node:crypto';
import { Webhook as StandardWebhook } from 'standardwebhooks';
import { Webhook as SvixWebhook } from 'svix';
import { describe, expect, it } from 'vitest';
import { signersAt } from '../../src/outbox/endpoint-cache.ts';
import { headerFault, sendableHeaders } from '../../src/outbox/headers.ts';
import { createKeyRing } from '../../src/outbox/key-ring.ts';
import {
  newSecret,
  parseSecret,
  receiversPart,
  type SigningSecret,
  signingKey,
} from '../../src/outbox/signing-secret.ts';
import { signWebhook } from '../../src/outbox/webhook.ts';

const MESSAGE = {
  id: '6f1c2a4e-0d5b-4c8e-9a51-2f7f0c1de3b4',
  topic: 'ticket.purchased',
  createdAt: new Date('2026-03-01T12:00:00.123Z'),
  payloadJson: '{"seat": "Ä12 🎟", "cents": 12345678901234567890.5}',
};
const base64 = (bytes: number) => Buffer.alloc(bytes, 7).toString('base64');

function signed(secrets: readonly SigningSecret[], headers: Record<string, string> = {}) {
  const signers = secrets.map((secret) => ({ kind: secret.kind, key: signingKey(secret) }));
  return signWebhook(MESSAGE, { signers, headers, now: new Date() });
}

/** As https://www.standardwebhooks.com says it, and with nothing of ours. */
function verifiesV1a(publicKey: string, { headers, body }: ReturnType<typeof signed>): boolean {
  const x = Buffer.from(publicKey.replace(/^whpk_/, ''), 'base64').toString('base64url');
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' });
  const content = Buffer.concat([Buffer.from(`${headers['webhook-id']}.${headers['webhook-timestamp']}.`), body]);
  return (headers['webhook-signature'] ?? '')
    .split(' ')
    .filter((each) => each.startsWith('v1a,'))
    .some((each) => verify(null, content, key, Buffer.from(each.slice('v1a,'.length), 'base64')));
}

describe('a signed message', () => {
  it('is verified by standardwebhooks and by svix, over the exact bytes', () => {
    const secret = newSecret('v1');
    const { headers, body } = signed([secret]);
    const text = body.toString('utf8');
    for (const Webhook of [StandardWebhook, SvixWebhook]) {
      const webhook = new Webhook(receiversPart(secret));
      expect(() => webhook.verify(text, headers)).not.toThrow();
      expect(() => webhook.verify(text.replace('12345678901234567890.5', '12345678901234567000'), headers)).toThrow();
    }
    expect(text).toContain(MESSAGE.payloadJson);
    expect(headers['webhook-id']).toBe(`msg_${MESSAGE.id}`);
  });

  it('of kind v1a is verified by its public key, and by no other', () => {
    const [secret, other] = [newSecret('v1a'), newSecret('v1a')];
    const request = signed([secret]);
    expect(verifiesV1a(receiversPart(secret), request)).toBe(true);
    expect(verifiesV1a(receiversPart(other), request)).toBe(false);
    expect(
      verifiesV1a(receiversPart(secret), { ...request, body: Buffer.concat([request.body, Buffer.from(' ')]) }),
    ).toBe(false);
    expect(receiversPart(secret)).toMatch(/^whpk_[A-Za-z0-9+/]{43}=$/);
  });

  it('carries a signature of each of two secrets, of whatever kinds, in their order', () => {
    const [v1a, v1] = [newSecret('v1a'), newSecret('v1')];
    const request = signed([v1a, v1]);
    expect(request.headers['webhook-signature']).toMatch(/^v1a,\S{88} v1,\S{44}$/);
    expect(verifiesV1a(receiversPart(v1a), request)).toBe(true);
    for (const Webhook of [StandardWebhook, SvixWebhook]) {
      expect(() => new Webhook(receiversPart(v1)).verify(request.body.toString(), request.headers)).not.toThrow();
    }
  });

  it('keeps its own headers whatever else is sent', () => {
    const { headers } = signed([newSecret('v1')], {
      'webhook-id': 'forged',
      'content-type': 'text/plain',
      'x-shop': '7',
    });
    expect(headers).toMatchObject({ 'content-type': 'application/json', 'x-shop': '7' });
    expect(headers['webhook-id']).toBe(`msg_${MESSAGE.id}`);
  });
});

describe('who signs', () => {
  const key = signingKey(newSecret('v1'));
  const at = (iso: string) => new Date(iso);
  const current = { kind: 'v1', key, expiresAt: null } as const;
  const ending = { kind: 'v1', key, expiresAt: at('2026-03-02T00:00:00Z') } as const;

  it('is both secrets until the older one ends, to the millisecond, and then the new one alone', () => {
    const secrets = [current, ending];
    expect(signersAt({ secrets }, at('2026-03-01T23:59:59.999Z'))).toHaveLength(2);
    expect(signersAt({ secrets }, at('2026-03-02T00:00:00.000Z'))).toHaveLength(1);
  });

  it.each([
    ['there is no secret', []],
    ['a valid one cannot be decrypted', [{ ...current, key: undefined }]],
    ['the older, still valid one cannot be decrypted', [current, { ...ending, key: undefined }]],
    ['all have ended', [{ ...ending, expiresAt: at('2026-02-01T00:00:00Z') }]],
  ])('is nobody when %s', (_what, secrets) => {
    expect(signersAt({ secrets }, at('2026-03-01T00:00:00Z'))).toBeUndefined();
  });

  it('does not care for one that cannot be decrypted and has ended', () => {
    const secrets = [current, { ...ending, key: undefined }];
    expect(signersAt({ secrets }, at('2026-03-03T00:00:00Z'))).toHaveLength(1);
  });
});

describe("a secret of one's own", () => {
  it.each([24, 32, 64])('may have %i bytes', (bytes) => {
    const secret = parseSecret(`whsec_${base64(bytes)}`);
    expect(receiversPart(secret)).toBe(`whsec_${base64(bytes)}`);
  });

  it('of kind v1a is a seed, or a seed and its public key, which come to the same', () => {
    const { bytes, publicKey } = newSecret('v1a');
    const seed = parseSecret(`whsk_${bytes.subarray(0, 32).toString('base64')}`);
    expect(parseSecret(`whsk_${bytes.toString('base64')}`)).toEqual(seed);
    expect(seed.publicKey).toBe(publicKey);
  });

  it.each([
    ['is too short', `whsec_${base64(23)}`, /has 23 bytes, not 24 to 64/],
    ['is too long', `whsec_${base64(65)}`, /has 65 bytes/],
    ['is empty', 'whsec_', /has 0 bytes/],
    ['has no prefix', base64(32), /begins with neither/],
    ['is nothing', '', /begins with neither/],
    ['is no base64', 'whsec_hunter2!hunter2!hunter2!hunter2!', /is not base64/],
    ['is base64 without its padding', `whsec_${base64(32).replace('=', '')}`, /is not base64/],
    ['is an ed25519 key of another length', `whsk_${base64(33)}`, /has 33 bytes/],
    ['is an ed25519 key with the public key of another', `whsk_${base64(64)}`, /public key that is not its own/],
  ])('is refused when it %s, and not repeated', (_what, text, says) => {
    const parse = () => parseSecret(text);
    expect(parse).toThrow(
      expect.objectContaining({ code: 'OUTBOX_SECRET_INVALID', message: expect.stringMatching(says) }),
    );
    expect(parse).not.toThrow(/hunter2/);
  });
});

describe('a key ring', () => {
  const [a, b] = [Buffer.alloc(32, 1), Buffer.alloc(32, 2)];
  const text = Buffer.from('a text of more than a block of sixteen bytes');

  it('opens what any of its keys sealed, and seals with the first', () => {
    const sealed = createKeyRing([a]).seal(text, 'here');
    expect(createKeyRing([b, a]).open(sealed, 'here')).toEqual(text);
    expect(createKeyRing([b, a]).seal(text, 'here').keyId).toBe(createKeyRing([b]).keyId);
    expect(createKeyRing([b]).open(sealed, 'here')).toBeUndefined();
  });

  it('opens nothing that was changed, cut short, or bound to something else', () => {
    const ring = createKeyRing([a]);
    const sealed = ring.seal(text, 'here');
    expect(ring.open(sealed, 'there')).toBeUndefined();
    for (const at of [0, 15, sealed.encrypted.length - 1]) {
      const encrypted = Buffer.from(sealed.encrypted);
      encrypted[at] = (encrypted[at] ?? 0) ^ 1;
      expect(ring.open({ ...sealed, encrypted }, 'here')).toBeUndefined();
    }
    expect(ring.open({ ...sealed, encrypted: sealed.encrypted.subarray(0, 20) }, 'here')).toBeUndefined();
  });

  it('seals nothing twice alike, and nothing without a key', () => {
    const ring = createKeyRing([a]);
    expect(ring.seal(text, 'here').encrypted).not.toEqual(ring.seal(text, 'here').encrypted);
    expect(() => createKeyRing([]).seal(text, 'here')).toThrow(expect.objectContaining({ code: 'OUTBOX_KEY_MISSING' }));
  });
});

describe('headers of a message', () => {
  it.each([
    [null, {}, []],
    [{ 'X-Shop': '7' }, { 'x-shop': '7' }, []],
    ['text', {}, ['all, as they are no object']],
    [['a'], {}, ['all, as they are no object']],
    [{ good: 'yes', n: 1, nothing: null }, { good: 'yes' }, ['n', 'nothing']],
    [
      { 'webhook-signature': 'v1,x', Host: 'evil', 'svix-id': 'x', good: 'yes' },
      { good: 'yes' },
      ['webhook-signature', 'host', 'svix-id'],
    ],
    [{ 'no name': 'x', '': 'x', 'a\r\nb': 'x' }, {}, ['no name', '', 'a\r\nb']],
    [{ split: 'a\r\nwebhook-id: forged', umlaut: 'ü', edge: ' a', nul: '\0' }, {}, ['split', 'umlaut', 'edge', 'nul']],
  ])('of %j are sent as far as they can be', (given, headers, leftOut) => {
    expect(sendableHeaders(given)).toEqual({ headers, leftOut });
  });

  it('are at most 32', () => {
    const many = Object.fromEntries(Array.from({ length: 40 }, (_, n) => [`x-${n}`, 'a']));
    expect(Object.keys(sendableHeaders(many).headers)).toHaveLength(32);
    expect(sendableHeaders(many).leftOut).toHaveLength(8);
  });

  it('may be as long as they may be, and no longer', () => {
    expect(headerFault('a', 'x'.repeat(1_000))).toBeUndefined();
    expect(headerFault('a', 'x'.repeat(1_001))).toMatch(/more than 1000 characters/);
  });
});
