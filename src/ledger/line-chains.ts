import type { ErrorCode } from '../errors.ts';
import type { Line } from './lines.ts';

/** As many transactions as one call takes. */
const MAX_CHAIN_LINES = 10_000;
const MAX_CHAIN_CHARACTERS = 50_000_000;

/** A line as it is posted; `text` is empty where it is refused beforehand. */
export interface PostingLine {
  readonly number: number;
  readonly text: string;
  readonly isLinked: boolean;
  readonly refused?: { readonly code: ErrorCode; readonly message: string };
}

/**
 * Lines that stand or fall together: each but the last is linked to the next one; nearly all stand by themselves. Where one
 * of them cannot be read, all are refused. What that one is linked to nobody knows: the lines that follow it in a chain
 * count as linked until one says that it is not.
 */
export async function* chainsOf(lines: AsyncIterable<Line>): AsyncGenerator<readonly PostingLine[], void> {
  let chain: PostingLine[] = [];
  let characters = 0;
  let isTooLong = false;
  for await (const line of lines) {
    const read = readLine(line, chain.length > 0 || isTooLong);
    chain.push(read);
    characters += read.text.length;
    isTooLong ||= read.isLinked && (chain.length >= MAX_CHAIN_LINES || characters > MAX_CHAIN_CHARACTERS);
    if (read.isLinked && !isTooLong) continue;
    yield isTooLong ? refuseAll(chain, TOO_LONG) : withFaults(chain);
    [chain, characters] = [[], 0];
    isTooLong &&= read.isLinked;
  }
  if (chain.length > 0) yield withFaults(chain);
}

const TOO_LONG = `It is linked to more lines than are posted at once, ${MAX_CHAIN_LINES} or ${MAX_CHAIN_CHARACTERS} characters.`;

function readLine(line: Line, isInChain: boolean): PostingLine {
  if ('fault' in line) return unreadable(line.number, line.fault, isInChain);
  try {
    const parsed = JSON.parse(line.text) as { linked?: unknown } | null;
    return { ...line, isLinked: parsed?.linked === true };
  } catch (error) {
    return unreadable(line.number, `It is not JSON: ${(error as Error).message}.`, isInChain);
  }
}

function unreadable(number: number, message: string, isLinked: boolean): PostingLine {
  return { number, text: '', isLinked, refused: { code: 'LEDGER_LINE_INVALID', message } };
}

function withFaults(chain: readonly PostingLine[]): readonly PostingLine[] {
  const faulty = chain.find(({ refused }) => refused !== undefined);
  if (faulty === undefined) return chain;
  return refuseAll(chain, `It is linked to line ${faulty.number}, which cannot be read: none of the chain was posted.`);
}

function refuseAll(chain: readonly PostingLine[], message: string): readonly PostingLine[] {
  return chain.map((line) => ({
    ...line,
    text: '',
    refused: line.refused ?? { code: 'LEDGER_LINK_FAILED', message },
  }));
}
