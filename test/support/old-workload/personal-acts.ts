import type { Act, Turn } from './act.ts';
import { inTransaction } from './table-acts.ts';

/** A table's name as it is written this time. */
type Named = (table: string) => string;

const PERSONAL: readonly {
  readonly name: string;
  readonly text: (t: Named) => string;
  readonly writes?: readonly string[];
}[] = [
  {
    name: 'notifications',
    text: (t) => `select * from ${t('notifications')} where user_id = $1 order by created_at desc limit 20`,
  },
  {
    name: 'read notifications',
    text: (t) => `update ${t('notifications')} set read_at = now() where user_id = $1`,
    writes: ['notifications'],
  },
  {
    name: 'notify',
    text: (t) =>
      `insert into ${t('notifications')} (user_id, title, message, type) values ($1, 'A', 'B', 'info') returning *`,
    writes: ['notifications'],
  },
  { name: 'tickets', text: (t) => `select * from ${t('tickets')} where owner_user_id = $1 limit 20` },
  { name: 'profile', text: (t) => `select * from ${t('user_profiles')} where user_id = $1` },
  {
    name: 'memberships',
    text: (t) =>
      `select m.*, o.name from ${t('org_memberships')} m join ${t('organizations')} o on o.id = m.org_id where m.user_id = $1`,
  },
  { name: 'events', text: (t) => `select * from ${t('events')} where created_by = $1 limit 20` },
  { name: 'orders', text: (t) => `select * from ${t('orders')} where user_id = $1 limit 20` },
];

/** As a person, by the claims of a token, as the gateway of the application does it: row-level security decides. */
export function personalActs(people: readonly string[], of: (turn: Turn) => Named): readonly Act[] {
  return PERSONAL.map(({ name, text, writes = [] }) => ({
    name: `of a person: ${name}`,
    kind: 'with row-level security',
    as: 'authenticated' as const,
    writes,
    run: (client, turn) =>
      inTransaction(client, async () => {
        const sub = people[turn.pick(people.length)];
        await client.query(`set local role authenticated`);
        await client.query(`select set_config('request.jwt.claims', $1, true)`, [
          JSON.stringify({ sub, role: 'authenticated' }),
        ]);
        await client.query(text(of(turn)), [sub]);
      }),
  }));
}
