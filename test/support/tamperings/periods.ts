/** What an owner did to the closed periods of a book, which he names $book, who disabled the guards. */
export type PeriodTampering = readonly [
  what: string,
  sql: string,
  /** The checks of periods that fail in `books verify`, the cause first. */
  checks: readonly string[],
  says: RegExp,
];

export const OF_LOG = 'the closed periods are what the log closed';
export const TOO_LATE = 'nothing was posted into a closed period';
export const CERTIFIED = 'every closed period is what its certificate says';

/** Of a book with two closed periods, until 2026-02-01 and until 2026-03-01, and two transactions in the first. */
export const PERIOD_TAMPERINGS: readonly PeriodTampering[] = [
  [
    'an amount of it',
    `update payments.entries set amount_cents = amount_cents * 2 where book_id = $book and effective_at = '2026-01-10Z'`,
    [CERTIFIED],
    /credit 220 balance -220/,
  ],
  [
    'a date out of it',
    `update payments.entries set effective_at = '2026-02-05Z' where book_id = $book and effective_at = '2026-01-10Z'`,
    [CERTIFIED],
    /transactions 1.*certified.*transactions 2/,
  ],
  [
    'a transaction of it',
    `delete from payments.entries where book_id = $book and effective_at = '2026-01-10Z'`,
    [CERTIFIED],
    /entries 2.*certified.*entries 4/,
  ],
  [
    'its certificate',
    `update payments.periods set certificate = jsonb_set(certificate, '{entries}', '5') where book_id = $book`,
    [OF_LOG, CERTIFIED],
    /differs from its event|does not match its hash/,
  ],
  [
    'its certificate, unreadable',
    `update payments.periods set certificate = '{"balances": 5}' where book_id = $book`,
    [OF_LOG, CERTIFIED],
    /differs from its event|does not match its hash/,
  ],
  [
    'its certificate with its hash, and the log',
    `update payments.periods set certificate = certificate || '{"entries": 5}', certificate_hash = payments.certificate_hash(certificate || '{"entries": 5}') where book_id = $book;
       update payments.events e set payload = payload || jsonb_build_object('certificate', p.certificate, 'hash', encode(p.certificate_hash, 'hex'))
       from payments.periods p where (p.book_id, p.event_position) = (e.book_id, e.position) and e.book_id = $book`,
    [CERTIFIED],
    /now entries 4; certified entries 5/,
  ],
  [
    'its hash, and the log',
    `update payments.periods set certificate_hash = sha256('') where book_id = $book;
       update payments.events set payload = payload || jsonb_build_object('hash', encode(sha256(''), 'hex'))
       where book_id = $book and type = 'period.closed'`,
    [CERTIFIED],
    /its certificate does not match its hash/,
  ],
  [
    'where its event says that it ends',
    `update payments.events set payload = payload || '{"until": "2026-01-15T00:00:00Z"}' where book_id = $book and type = 'period.closed'`,
    [OF_LOG],
    /until 2026-02-01T00:00:00.000000Z differs from its event/,
  ],
  [
    'its row',
    `delete from payments.periods where book_id = $book and closed_until = '2026-02-01Z'`,
    [OF_LOG, CERTIFIED],
    /is in the log \(event \d+\) and not among the periods|now from the beginning/,
  ],
  [
    'its event',
    `delete from payments.events where book_id = $book and type = 'period.closed'`,
    [OF_LOG],
    /has no event in the log/,
  ],
  [
    'its event, unreadable',
    `update payments.events set payload = '{"until": "never"}' where book_id = $book and type = 'period.closed'`,
    [OF_LOG],
    /differs from its event/,
  ],
  [
    'when the book opens',
    `update payments.books set closed_until = null where book_id = $book`,
    [OF_LOG],
    /^book \d+ is closed until never, its periods until 2026-03-01/,
  ],
];
