import type { Node } from 'libpg-query';
import type { SqlText } from './text.ts';

/** What was found, and where. `rule` is stable: it is what is disabled, allowed and kept in a baseline. */
export interface Finding {
  readonly rule: string;
  readonly path: string;
  readonly line: number;
  readonly column: number;
  readonly message: string;
}

export interface SqlFile {
  /** As it was asked for. */
  readonly path: string;
  readonly text: SqlText;
}

/** One statement, with what is known of when it runs. */
export interface Statement {
  readonly file: SqlFile;
  readonly node: Node;
  /** Its first byte in the file. */
  readonly offset: number;
  /** In a file or in a DO block it runs when the file does; in a function, when somebody calls that. */
  readonly runs: 'with-file' | 'when-called';
  /** Run again and again by a DO block: a table that is named by a variable is another one each time. */
  readonly isLooped: boolean;
  /** Statements of one transaction share it; so do those of one function. */
  readonly transaction: number;
  /** Nothing else is in its transaction, and nobody began one around it. */
  readonly isAlone: boolean;
  /** Settings of a session last as long as this is the same. */
  readonly session: number;
  /** Where a location that the parser gave for something in it is in the file. */
  locate(location: number | undefined): number;
}

/** A comment with which somebody says something to the linter. */
export interface Comment {
  readonly text: string;
  readonly offset: number;
}

/** What could not be looked into. */
export interface Unread {
  readonly path: string;
  readonly line: number;
  readonly column: number;
  readonly why: string;
}

/** From the first byte of a statement of the file to the one after its semicolon. */
export interface Span {
  readonly start: number;
  readonly end: number;
}
