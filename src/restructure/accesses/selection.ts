/** What a `select` of PostgREST asks for. */
export type SelectItem =
  | { readonly kind: 'all' }
  | { readonly kind: 'column'; readonly column: string; readonly alias?: string; readonly cast?: string }
  | Embed;

/** Rows of a related table inside of each row. */
export interface Embed {
  readonly kind: 'embed';
  readonly target: string;
  readonly alias?: string;
  /** A constraint, a column or a table that says which relationship is meant. */
  readonly hint?: string;
  /** Whether rows without a related one are left out. */
  readonly isInner: boolean;
  readonly items: readonly SelectItem[];
}

/** What the embedded rows are called in the answer, and in filters. */
export const embedName = ({ alias, target }: Embed): string => alias ?? target;

const DEEPEST = 10;
const NAME = /[\p{L}\p{N}_]+/uy;

/** Reads a `select`, whose blanks mean nothing, as the clients send it; undefined for one that PostgREST does not understand. */
export function parseSelect(text: string): readonly SelectItem[] | undefined {
  const reader = new Reader(text.replaceAll(/\s+/gu, ''));
  const items = readItems(reader, 0);
  return reader.isAtEnd() ? items : undefined;
}

/** A place in a text, and what comes next. */
class Reader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  isAtEnd(): boolean {
    return this.#at === this.#text.length;
  }

  /** Goes on behind `token` where it comes next. */
  take(token: string): boolean {
    const isNext = this.#text.startsWith(token, this.#at);
    if (isNext) this.#at += token.length;
    return isNext;
  }

  takeName(): string | undefined {
    NAME.lastIndex = this.#at;
    const [name] = NAME.exec(this.#text) ?? [];
    this.#at += name?.length ?? 0;
    return name;
  }

  /** `:name`, but not `::name`. */
  takeAliased(): string | undefined {
    return this.#text.startsWith('::', this.#at) || !this.take(':') ? undefined : this.takeName();
  }
}

function readItems(reader: Reader, depth: number): readonly SelectItem[] | undefined {
  const items: SelectItem[] = [];
  do {
    const item = readItem(reader, depth);
    if (item === undefined) return undefined;
    items.push(item);
  } while (reader.take(','));
  return items;
}

function readItem(reader: Reader, depth: number): SelectItem | undefined {
  if (reader.take('*')) return { kind: 'all' };
  const first = reader.takeName();
  if (first === undefined) return undefined;
  const second = reader.takeAliased();
  const [alias, name] = second === undefined ? [undefined, first] : [first, second];
  const aliased = alias === undefined ? {} : { alias };
  const modifiers: string[] = [];
  while (reader.take('!')) modifiers.push(reader.takeName() ?? '');
  if (reader.take('(')) return readEmbed(reader, { target: name, ...aliased }, { modifiers, depth: depth + 1 });
  if (modifiers.length > 0) return undefined;
  const cast = reader.take('::') ? reader.takeName() : undefined;
  return { kind: 'column', column: name, ...aliased, ...(cast === undefined ? {} : { cast }) };
}

function readEmbed(
  reader: Reader,
  named: { readonly target: string; readonly alias?: string },
  { modifiers, depth }: { readonly modifiers: readonly string[]; readonly depth: number },
): Embed | undefined {
  const items = depth > DEEPEST ? undefined : readItems(reader, depth);
  if (items === undefined || !reader.take(')')) return undefined;
  const [hint] = modifiers.filter((modifier) => modifier !== 'inner' && modifier !== 'left');
  const isInner = modifiers.includes('inner');
  return { kind: 'embed', ...named, ...(hint === undefined ? {} : { hint }), isInner, items };
}
