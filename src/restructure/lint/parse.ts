import { type Node, type RawStmt, type ScanToken, scanSync } from 'libpg-query';
import { atomicBody, type Body, bodyOf, type Inner, readBody } from './bodies.ts';
import { parsePlainSql } from './plain-sql.ts';
import type { Comment, Finding, Span, SqlFile, Statement, Unread } from './statement.ts';
import { firstFrom } from './text.ts';
import { type During, isAlone, Transactions } from './transactions.ts';

export interface ParsedFile extends SqlFile {
  readonly statements: readonly Statement[];
  readonly spans: readonly Span[];
  readonly comments: readonly Comment[];
  readonly faults: readonly Finding[];
  readonly unread: readonly Unread[];
  /** Each statement is a transaction of its own. */
  readonly isAlone: boolean;
}

/** @param options.alone every statement of every file is a transaction of its own, as psql runs them */
export function parseFile(path: string, source: string, options: { readonly alone: boolean }): ParsedFile {
  const { text, statements, faults } = parsePlainSql(source);
  const tokens = tokensOf(text.bytes.toString());
  const comments = tokens
    .filter(({ tokenName }) => tokenName.endsWith('COMMENT'))
    .map((token) => ({ text: token.text, offset: token.start }));
  const alone = options.alone || comments.some(isAlone);
  const reading = new Reading({ path, text }, tokens, new Transactions(comments, alone));
  for (const statement of statements) reading.read(statement);
  return {
    path,
    text,
    comments,
    statements: reading.statements,
    spans: reading.spans,
    unread: reading.unread,
    isAlone: alone,
    faults: faults.map(({ offset, ...fault }) => ({ path, ...text.at(offset), ...fault })),
  };
}

/** Of a file that is no SQL there are none. */
function tokensOf(sql: string): readonly ScanToken[] {
  try {
    return scanSync(sql).tokens;
  } catch {
    return [];
  }
}

class Reading {
  readonly statements: Statement[] = [];
  readonly spans: Span[] = [];
  readonly unread: Unread[] = [];
  readonly #file: SqlFile;
  readonly #strings: readonly ScanToken[];
  readonly #transactions: Transactions;

  constructor(file: SqlFile, tokens: readonly ScanToken[], transactions: Transactions) {
    this.#file = file;
    this.#strings = tokens.filter(({ tokenName }) => tokenName === 'SCONST');
    this.#transactions = transactions;
  }

  read({ stmt: node, stmt_location: start = 0, stmt_len: length }: RawStmt): void {
    if (node === undefined) return;
    const end = length === undefined || length === 0 ? this.#file.text.bytes.length : start + length;
    this.spans.push({ start, end });
    const during = this.#transactions.enter(node, start);
    const locate = placeOr(start);
    this.statements.push({
      file: this.#file,
      node: withoutBody(node),
      offset: start,
      runs: 'with-file',
      isLooped: false,
      ...during,
      locate,
    });
    for (const inner of nestedOf(node)) {
      this.statements.push({
        file: this.#file,
        node: inner,
        offset: start,
        runs: 'with-file',
        isLooped: false,
        ...during,
        locate,
      });
    }
    const body = bodyOf(node);
    if (body !== undefined) this.#readBody(node, body, { start, end }, during);
    if ('CreateFunctionStmt' in node) this.#readAtomic(node, start);
  }

  #readBody(node: Node, body: Body, { start, end }: Span, during: During): void {
    const { inner, unread } = readBody(body, this.#file.text.slice(start, end));
    const origin = this.#originOf(body, { start, end });
    const inFile = (offset: number) => (origin === undefined ? start : origin + offset);
    for (const { offset, why } of unread)
      this.unread.push({ path: this.#file.path, ...this.#file.text.at(inFile(offset)), why });
    const when =
      'DoStmt' in node
        ? { ...during, runs: 'with-file' as const }
        : { ...this.#transactions.apart(), runs: 'when-called' as const };
    for (const each of inner) this.statements.push({ ...this.#place(each, inFile), ...when });
  }

  #place({ node, offset, isLooped, locate }: Inner, inFile: (offset: number) => number) {
    return {
      file: this.#file,
      node,
      offset: inFile(offset),
      isLooped,
      locate: (location?: number) => inFile(isPlace(location) ? locate(location) : offset),
    };
  }

  #readAtomic(node: { CreateFunctionStmt: Parameters<typeof atomicBody>[0] }, start: number): void {
    const apart = this.#transactions.apart();
    for (const inner of atomicBody(node.CreateFunctionStmt)) {
      const locate = placeOr(start);
      this.statements.push({
        file: this.#file,
        node: inner,
        offset: start,
        runs: 'when-called',
        isLooped: false,
        ...apart,
        locate,
      });
    }
  }

  /** Where the text of a body begins in the file; unknown of one in quotes that have quotes inside. */
  #originOf({ text }: Body, { start, end }: Span): number | undefined {
    for (let at = firstFrom(this.#strings, start); at < this.#strings.length; at += 1) {
      const token = this.#strings[at];
      if (token === undefined || token.end > end) return undefined;
      const quote = /^(?:\$[^$]*\$|')/.exec(token.text)?.[0] ?? '';
      if (quote !== '' && token.text.slice(quote.length, -quote.length) === text)
        return token.start + Buffer.byteLength(quote);
    }
    return undefined;
  }
}

/** What is not written out, such as the star of `table t`, is nowhere: the parser says -1. */
const isPlace = (location: number | undefined): location is number => location !== undefined && location >= 0;
const placeOr = (start: number) => (location: number | undefined) => (isPlace(location) ? location : start);

/** What CREATE SCHEMA makes in the schema. */
function nestedOf(node: Node): readonly Node[] {
  return 'CreateSchemaStmt' in node ? (node.CreateSchemaStmt.schemaElts ?? []) : [];
}

/** What a function does when it is called, it does not do when it is created. */
function withoutBody(node: Node): Node {
  if (!('CreateFunctionStmt' in node)) return node;
  const { sql_body: _readByItself, ...header } = node.CreateFunctionStmt;
  return { CreateFunctionStmt: header };
}
