import { describe, expect, it } from 'vitest';
import type { Queryable } from '../../src/db/pool.ts';
import { addEndpoint } from '../../src/outbox/endpoints.ts';

/** Nothing may reach the database before the input is known to be good. */
const untouched = {
  query: () => {
    throw new Error('the database was asked');
  },
} as unknown as Queryable;

const add = (url: string, topics: readonly string[] = ['*']) =>
  addEndpoint(untouched, { url, topics, egressAllow: [] });

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
    `https://example.com/${'x'.repeat(10_000)}`,
    `https://example.com/${'ü'.repeat(1_000)}`,
  ])('for the URL %.40s', async (url) => {
    const refusal = add(url);
    await expect(refusal).rejects.toMatchObject({ code: 'OUTBOX_ENDPOINT_URL_INVALID' });
    await expect(refusal).rejects.not.toThrow(/hunter2/);
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
