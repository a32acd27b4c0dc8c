/** What makes, or goes on with what is declared. Of which file that is nobody kept. */
export const APPLY = 'liventix rollups apply, with its --mapping where that is one of your own';

/** @param isEmptied whether a TRUNCATE of its source is among what it is to be rebuilt for */
export function rebuildOf(name: string, isEmptied = false): string {
  const command = `liventix rollups rebuild ${name}`;
  return isEmptied ? `${command}, or, while the table has no rows, ${command} --everything` : command;
}

/** What makes a rollup anew of which nothing can be gone on with. */
export const anewOf = (name: string): string => `liventix rollups remove --name ${name}, then apply`;

export const plural = (count: number | bigint, what: string): string => (BigInt(count) === 1n ? what : `${what}s`);
