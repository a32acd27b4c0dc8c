import { Writable } from 'node:stream';
import { expect, it } from 'vitest';
import { createLogger } from '../../src/cli/log.ts';

function logged(fields: object): Record<string, unknown> {
  let text = '';
  const destination = new Writable({
    write: (chunk, _encoding, done) => {
      text += chunk;
      done();
    },
  });
  createLogger('trace', destination).trace(fields, 'said');
  return JSON.parse(text);
}

it.each([
  ['a secret', { secret: 'hidden' }],
  ['an inner secret', { endpoint: { secret: 'hidden' } }],
  ['a list of secrets', { endpoints: [{ secret: 'hidden' }] }],
  ['headers', { request: { headers: { 'x-key': 'hidden' } } }],
  ['a header', { authorization: 'hidden' }],
  ['a payload', { payloadJson: '{"a":"hidden"}' }],
  ["a URL's query", { url: 'https://example.com/hooks?token=hidden' }],
  ["a URL's password", { endpoint: { url: 'https://user:hidden@example.com/hooks' } }],
  ["a cluster's passwords", { redisUrl: 'redis://:hidden@a:7000,redis://:hidden@b:7000?x=hidden, rediss://:hidden@c' }],
  ['a URL in an error', { err: new Error('postgresql://me:hidden@db/app did not answer') }],
  ['a URL in an outcome', { error: 'https://example.com/?hidden was refused' }],
])('does not log %s', (_what, fields) => {
  const line = logged(fields);
  expect(JSON.stringify(line)).not.toContain('hidden');
  expect(line['msg']).toBe('said');
});

it('logs where a URL points, and ids as they are', () => {
  expect(logged({ url: 'https://u:p@example.com:8443/hooks/a?b=c#d', messageId: 'm', attempt: 3 })).toMatchObject({
    url: 'https://example.com:8443/hooks/a',
    messageId: 'm',
    attempt: 3,
  });
});
