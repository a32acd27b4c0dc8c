import { describe, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { acceptedSettings } from '../../src/outbox/endpoint-settings.ts';
import { addEndpoint } from '../../src/outbox/endpoints.ts';
import { createKeyRing } from '../../src/outbox/key-ring.ts';

const TEST_KEY_RING = createKeyRing([Buffer.alloc(32, 1)]);

/** Nothing may reach the database before the input is known to be good. */
const untouched = {
  query: () => {
    throw new Error('the database was asked');
  },
} as unknown as Queryable;

const add = (url: string, topics: readonly string[] = ['*']) =>
  addEndpoint(untouched, { url, topics, egressAllow: [], keyRing: TEST_KEY_RING });

describe('an endpoint is refused', () => {
  it.each([
    'not-a-url',
    '',
    '//example.com/',
    'ftp://example.com/',
    'file:///etc/passwd',
    'javascript:alert(1)',
    'https://user:hunter2@example.com/',
    'https://hunter2@example.com/',
    'https://example.com/hooks#x',
    'https://example.com/#',
    'https://example.com:0/',
    'https://example.com:25/',
    'http://example.com:6667/irc',
    'https://example.com:65536/',
    'https://example.com:-1/',
    'https://example.com:port/',
    'https://exa mple.com/',
    'https://example.com/a\nb',
    'https://example.com/a b',
    ' https://example.com/',
    'https://exam\tple.com/',
    'https://example.com/\u2028',
    'https:///a',
    'https:a',
    'https:/example.com/',
    'https://?a',
    'https:\\\\example.com/',
    'https://:443/',
    'https://a:hunter2@b@example.com/',
    'https://a..example/',
    `https://${'a'.repeat(64)}.example/`,
    `https://${'ü'.repeat(300)}.example/`,
    `https://example.com/${'x'.repeat(10_000)}`,
    `https://example.com/${'ü'.repeat(1_000)}`,
  ])('for the URL %.40s', async (url) => {
    const refusal = add(url);
    await expect(refusal).rejects.toMatchObject({ code: 'OUTBOX_ENDPOINT_URL_INVALID' });
    await expect(refusal).rejects.not.toThrow(/hunter2/);
  });

  it.each([
    ['https://BÜCHER.example/Hören?q=ä', 'https://xn--bcher-kva.example/H%C3%B6ren?q=%C3%A4'],
    ['https://例え.テスト/フック', 'https://xn--r8jz45g.xn--zckzah/%E3%83%95%E3%83%83%E3%82%AF'],
    ['https://example.com:443/', 'https://example.com/'],
    ['https://example.com:8443/a/../b', 'https://example.com:8443/b'],
    ['https://example.com:65535/', 'https://example.com:65535/'],
    ['HTTP://Example.COM', 'http://example.com/'],
    [`https://example.com/${'x'.repeat(2_028)}`, `https://example.com/${'x'.repeat(2_028)}`],
  ])('but not for %.60s, which is kept encoded', (given, kept) => {
    expect(acceptedSettings({ url: given }, { egressAllow: [] }).url).toBe(kept);
  });

  it.each([
    ['a description of nothing', { description: '' }],
    ['a description of 501 characters', { description: 'x'.repeat(501) }],
    ['a timeout of 99 ms', { timeoutMs: 99 }],
    ['a timeout of more than a minute', { timeoutMs: 60_001 }],
    ['no request at once', { maxInFlight: 0 }],
    ['half a request at once', { maxInFlight: 0.5 }],
    ['a rate of 0', { ratePerSecond: 0 }],
    ['a rate of 10001', { ratePerSecond: 10_001 }],
    ['a rate that is no number', { ratePerSecond: Number.NaN }],
    ['21 retries', { retryDelaysMs: Array.from({ length: 21 }, () => 1_000) }],
    ['a retry after 999 ms', { retryDelaysMs: [999] }],
    ['a retry after more than 7 days', { retryDelaysMs: [604_800_001] }],
    ['a retry before the failure', { retryDelaysMs: [-5_000] }],
    ['a retry after half a millisecond more', { retryDelaysMs: [1_000.5] }],
    ['a filter that is no JSON', { filter: '{status: paid}' }],
    ['a filter that is an array', { filter: '[1]' }],
    ['a filter that is null', { filter: 'null' }],
    ['a filter of more than 8 kB', { filter: JSON.stringify({ x: 'x'.repeat(8_192) }) }],
    ['a header of ours', { headers: { 'Webhook-Id': 'x' } }],
    ['a header of the connection', { headers: { 'Transfer-Encoding': 'chunked' } }],
    ['a header with a second line', { headers: { 'x-a': 'a\r\nwebhook-id: forged' } }],
    ['one header twice', { headers: { 'X-A': '1', 'x-a': '2' } }],
    ['33 headers', { headers: Object.fromEntries(Array.from({ length: 33 }, (_, n) => [`x-${n}`, 'a'])) }],
  ])('for %s', (_what, settings) => {
    expect(() => acceptedSettings(settings, { egressAllow: [] })).toThrow(
      expect.objectContaining({ code: 'OUTBOX_ENDPOINT_INVALID' }),
    );
  });

  it('without the value of a header being repeated', () => {
    expect(() => acceptedSettings({ headers: { authorization: 'hunter2\n' } }, { egressAllow: [] })).toThrow(
      /"authorization" has a value/,
    );
    expect(() => acceptedSettings({ headers: { authorization: 'hunter2\n' } }, { egressAllow: [] })).not.toThrow(
      /hunter2/,
    );
  });

  it.each([
    'http://127.0.0.1:8080/',
    'http://0x7f.1/',
    'http://[::1]/',
    'http://[::ffff:169.254.169.254]/latest/meta-data',
  ])('for the inside address in %s', async (url) => {
    await expect(add(url)).rejects.toMatchObject({ code: 'OUTBOX_EGRESS_REFUSED' });
  });

  it('for an address that is denied, public or allowed as it may be', async () => {
    for (const url of ['https://8.8.8.8/', 'http://[::ffff:8.8.8.8]/', 'https://134744072/', 'http://10.1.0.1/']) {
      const refusal = addEndpoint(untouched, {
        url,
        topics: ['*'],
        egressAllow: ['10.0.0.0/8'],
        egressDeny: ['8.8.8.0/24', '10.1.0.0/16'],
        keyRing: TEST_KEY_RING,
      });
      await expect(refusal).rejects.toMatchObject({ code: 'OUTBOX_EGRESS_REFUSED' });
      await expect(refusal).rejects.toThrow(/ is in OUTBOX_EGRESS_DENY\. /);
    }
  });

  it.each([
    [['Ticket']],
    [['ticket.']],
    [['.ticket']],
    [['a b']],
    [['*.ticket']],
    [['ticket.**']],
    [['ticket*']],
    [['']],
    [['a'.repeat(200)]],
    [['good', 'not good']],
    [[]],
    [Array.from({ length: 101 }, (_, n) => `t${n}`)],
  ])('for the topics %.40j', async (topics) => {
    await expect(add('https://example.com/', topics)).rejects.toMatchObject({ code: 'OUTBOX_TOPIC_INVALID' });
  });
});
