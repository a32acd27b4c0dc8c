/** A word of a command as it is pasted into a shell: quoted where that would take it apart. Pure. */
export const inShell = (word: string): string =>
  /^[\p{L}\p{N}_.-]+$/u.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
