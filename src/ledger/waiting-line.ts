/** Somebody who waits to be posted: with so many transactions, of a text of so many characters, on these accounts. */
export interface Party {
  readonly size: number;
  readonly characters: number;
  readonly accounts: readonly unknown[];
}

/** Who waits to be posted, and which of them can go without waiting for each other. */
export interface WaitingLine<T extends Party> {
  /** Transactions that wait. */
  readonly size: number;
  /** Of their texts together. */
  readonly characters: number;
  /** Whether somebody waits who may not have to, as far as is known. */
  readonly mayGo: boolean;
  join(party: T): void;
  /**
   * Lets go, together, whoever can: first come, first served. Who shares an account with somebody who is under way is left until
   * `returned` says that one is back; so is whoever shares an account with somebody who is left.
   * @param share so many transactions, and beyond that those that share an account with one of them
   * @param most never more than that, nor more than `mostCharacters`, but for a single party that is larger
   */
  letGo(limits: { readonly share: number; readonly most: number; readonly mostCharacters: number }): T[];
  /** Those who were let go together are back, and their accounts are free. */
  returned(parties: readonly T[]): void;
}

/** Nobody is looked at twice before somebody is back, however many wait. */
export function createWaitingLine<T extends Party>(): WaitingLine<T> {
  let [size, charactersWaiting] = [0, 0];
  /** In the order in which they came; the first `left` of them were looked at, and are left. */
  let parties: T[] = [];
  let left = 0;
  const underWay = new Set<unknown>();
  /** The accounts that are under way, and those of the parties that are left. */
  let taken = new Set<unknown>();
  const shares = ({ accounts }: T, others: ReadonlySet<unknown>) => accounts.some((id) => others.has(id));

  return {
    get size() {
      return size;
    },
    get characters() {
      return charactersWaiting;
    },
    get mayGo() {
      return left < parties.length;
    },
    join: (party) => {
      parties.push(party);
      size += party.size;
      charactersWaiting += party.characters;
    },
    letGo: ({ share, most, mostCharacters }) => {
      const [gone, passed]: [T[], T[]] = [[], []];
      const own = new Set<unknown>();
      let [count, characters] = [0, 0];
      let next = left;
      for (; next < parties.length; next += 1) {
        const party = parties[next] as T;
        if (shares(party, taken)) {
          for (const id of party.accounts) taken.add(id);
          passed.push(party);
          continue;
        }
        const isTooMuch = count + party.size > most || characters + party.characters > mostCharacters;
        if (gone.length > 0 && (isTooMuch || (count >= share && !shares(party, own)))) break;
        for (const id of party.accounts) own.add(id);
        gone.push(party);
        count += party.size;
        characters += party.characters;
      }
      // Where nobody goes, everybody looked at was passed, and the line is as it was: it is long, and not copied.
      if (gone.length > 0) parties = [...parties.slice(0, left), ...passed, ...parties.slice(next)];
      left += passed.length;
      size -= count;
      charactersWaiting -= characters;
      for (const id of own) {
        taken.add(id);
        underWay.add(id);
      }
      return gone;
    },
    returned: (back) => {
      for (const { accounts } of back) for (const id of accounts) underWay.delete(id);
      [left, taken] = [0, new Set(underWay)];
    },
  };
}
