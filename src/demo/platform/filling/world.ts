import type { Queryable } from '../../../db/pool.ts';
import { Random } from '../../economy/random.ts';
import { Ranks } from './ranks.ts';

/** Who takes part: bounds what is held of a database with a million wallets. */
const MOST_PEOPLE = 50_000;
const MOST_ORGANIZATIONS = 2_000;
const MOST_CAMPAIGNS = 20_000;
/** Facts that are kept for whoever asks again, of each table. */
const RECOLLECTIONS = 2_048;

interface Founder {
  readonly id: string;
  readonly ownerId: string;
}

/** A campaign that wallets were charged for, and so exists. */
interface KnownCampaign {
  readonly id: string;
  readonly orgId: string;
  readonly spent: number;
}

/** What was in the database before: everything else follows from it and from the seed. */
export interface Given {
  /** Users with a profile, by id. */
  readonly people: readonly string[];
  readonly organizations: readonly Founder[];
  readonly campaigns: readonly KnownCampaign[];
  /** How a vector is written: pgvector's brackets, or the braces of the array that stands in for it. */
  readonly vectorBrackets: '[]' | '{}';
}

/**
 * The platform that the rows tell of. Nothing of it is held: whatever is asked about the n-th row of a table is drawn
 * again from the seed, the table and n, always the same, so that rows refer to each other without being remembered.
 */
export class World {
  readonly people: readonly string[];
  readonly given: Given;
  /** Of all tables, as asked for. */
  readonly rows: number;
  readonly #seed: number;
  readonly #counts = new Map<string, number>();
  readonly #purposes = new Map<string, number>();
  readonly #ranks = new Map<number, Ranks>();
  readonly #recalled = new Map<string, { index: number; facts: unknown }[]>();

  constructor(given: Given, { rows, seed }: { rows: number; seed: number }) {
    this.rows = rows;
    this.given = given;
    this.people = given.people;
    this.#seed = seed;
  }

  /** The rows that a table will have. */
  count(table: string): number {
    return this.#counts.get(table) ?? 0;
  }

  plan(table: string, rows: number): void {
    this.#counts.set(table, rows);
  }

  /** A stream of chance for each table and index. Other tables never change it. */
  random(table: string, index: number): Random {
    let purpose = this.#purposes.get(table);
    if (purpose === undefined) {
      purpose = purposeOf(table);
      this.#purposes.set(table, purpose);
    }
    return new Random({ seed: this.#seed, purpose, index });
  }

  idOf(table: string, index: number): string {
    return this.random(table, index).uuid();
  }

  /** What is true of the n-th row of a table. `draw` starts with the row's id, which is the first that its stream says. */
  recall<T>(table: string, index: number, draw: (random: Random, id: string) => T): T {
    let slots = this.#recalled.get(table);
    if (slots === undefined) {
      slots = [];
      this.#recalled.set(table, slots);
    }
    const held = slots[index % RECOLLECTIONS];
    if (held?.index === index) return held.facts as T;
    const random = this.random(table, index);
    const facts = draw(random, random.uuid());
    slots[index % RECOLLECTIONS] = { index, facts };
    return facts;
  }

  /** One of `count`, the first ones more often than the last. */
  popular(random: Random, count: number): number {
    return this.ranks(count).draw(random);
  }

  ranks(count: number): Ranks {
    const known = this.#ranks.get(count);
    if (known !== undefined) return known;
    const ranks = new Ranks(count);
    this.#ranks.set(count, ranks);
    return ranks;
  }

  person(random: Random): string {
    return itemOf(this.people, random.below(this.people.length));
  }

  /** Somebody, the busy ones more often. */
  busyPerson(random: Random): string {
    return itemOf(this.people, this.popular(random, this.people.length));
  }

  /** Of those who belong to one parent, the n-th: never the same one twice before all were there. */
  nthPerson(table: string, parent: number, nth: number): string {
    return itemOf(this.people, this.nthOf(table, parent, nth, this.people.length));
  }

  nthOf(table: string, parent: number, nth: number, count: number): number {
    const first = this.recall(`${table}, first`, parent, (random) => random.fraction());
    return (Math.floor(first * count) + nth) % count;
  }
}

/** The item there, or, of an index beyond the end, one counted round again. */
export function itemOf<T>(items: readonly T[], index: number): T {
  return items[index % items.length] as T;
}

// FNV-1a.
function purposeOf(table: string): number {
  let hash = 0x811c_9dc5;
  for (let at = 0; at < table.length; at += 1) hash = Math.imul(hash ^ table.charCodeAt(at), 0x0100_0193);
  return hash >>> 0;
}

export async function readGiven(db: Queryable): Promise<Given> {
  const { rows: people } = await db.query<{ id: string }>(
    `select user_id as id from public.user_profiles order by user_id limit ${MOST_PEOPLE}`,
  );
  const { rows: organizations } = await db.query<Founder>(
    `select id, created_by as "ownerId" from public.organizations order by id limit ${MOST_ORGANIZATIONS}`,
  );
  const { rows: campaigns } = await db.query<KnownCampaign>(
    `select t.reference_id as id, w.org_id as "orgId", -sum(t.credits_delta)::integer as spent
     from public.org_wallet_transactions t join public.org_wallets w on w.id = t.wallet_id
     where t.transaction_type = 'spend' and t.reference_type in ('campaign', 'campaign_spend') and t.reference_id is not null
     group by t.reference_id, w.org_id order by t.reference_id limit ${MOST_CAMPAIGNS}`,
  );
  const { rows: vectors } = await db.query<{ domain: boolean }>(
    `select typtype = 'd' as domain from pg_type where oid = 'public.vector'::regtype`,
  );
  return {
    people: people.map(({ id }) => id),
    organizations,
    campaigns,
    vectorBrackets: vectors[0]?.domain === true ? '{}' : '[]',
  };
}
