import type { z } from 'zod';
import type { Pool } from '../db/pool.ts';
import type { Markup } from '../html/markup.ts';
import type { View } from '../html/view.ts';
import type { Permission, Visitor } from './visitor.ts';

/** The headings of the navigation, in their order. */
export const SECTIONS = {
  books: 'Books',
  accounts: 'Accounts',
  transactions: 'Transactions',
  escrow: 'Escrow',
  backfill: 'Backfill',
  outbox: 'Outbox',
  queue: 'Queue',
  audit: 'Audit',
} as const;
export type Section = keyof typeof SECTIONS;

/** What a page is given to answer with. */
export interface Ask {
  /** Reads as the read-only role, on the replica where there is one. */
  readonly reader: Pool;
  readonly visitor: Visitor;
  readonly view: View;
  /** To be sent back with each form that does something. */
  readonly csrfToken: string;
  /** Path and query as they were asked for, to be come back to. */
  readonly url: URL;
}

/** What an action is given beside: it writes, as the owner. */
interface ActionAsk extends Ask {
  readonly owner: Pool;
}

export interface Shown {
  readonly title: string;
  readonly body: Markup;
  /** Where what is shown goes on changing: the part called `live` is asked for again after so many seconds. */
  readonly refreshSeconds?: number | undefined;
}

/** A file instead of a page. */
export interface Sent {
  readonly fileName: string;
  readonly contentType: string;
  readonly text: AsyncIterable<string>;
}

/** A file of JSON that is there as a whole, byte by byte as it is given. */
export function jsonFile(fileName: string, json: string): Sent {
  async function* once() {
    yield json;
  }
  return { fileName, contentType: 'application/json; charset=utf-8', text: once() };
}

/** A page under a path of Fastify's: what is in its path and its query is judged before it is asked. */
export interface Page<Query = unknown> {
  readonly section: Section;
  readonly path: string;
  readonly query: z.ZodType<Query>;
  readonly show: (ask: Ask, query: Query) => Promise<Shown | Sent>;
}

/** Something that is done: by POST, by those who may, and written down before and after. */
export interface Action<Input = unknown> {
  readonly path: string;
  /** As the audit log calls it. */
  readonly name: string;
  readonly needs: Permission;
  readonly input: z.ZodType<Input>;
  /** The path of the page that it is about. */
  readonly subject: (input: Input) => string;
  readonly act: (ask: ActionAsk, input: Input) => Promise<Acted>;
}

/** What came of it, in a sentence, and the page to be shown next. */
interface Acted {
  readonly message: string;
  readonly to: string;
}

export const definePage = <Query>(page: Page<Query>): Page => page as Page;
export const defineAction = <Input>(action: Action<Input>): Action => action as Action;
