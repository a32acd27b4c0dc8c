/** What everybody delivers: as long as a usual announcement, so that signing, parsing and storing it cost what they do. */
export const TOPIC = 'ticket.sold';

const REST = {
  ticketId: '5f0c8d5e-6a53-4e0e-9a9b-1d2f7f0a5c11',
  buyerId: 'c2a7f9a4-7d1b-4b8e-8f55-0b6a1c9f3e42',
  amountCents: 1999,
  currency: 'USD',
  seat: { block: 'C', row: 12, number: 7 },
};

/** The `n`-th message of a run, from 0: by its number the receiver knows it again. */
export const payloadOf = (n: number) => ({ n, ...REST });

/** The same in SQL, for a row that has a column n. */
export const PAYLOAD_SQL = `jsonb_build_object('n', n) || '${JSON.stringify(REST)}'::jsonb`;
