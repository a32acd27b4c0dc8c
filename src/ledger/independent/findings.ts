import { GUARD_COUNT } from '../guards.ts';
import type { CheckResult } from '../verify.ts';

const NAMED_FAULTS = 5;

/** What is checked, causes before what follows from them. What `books verify` checks as well has the same name there. */
const CHECKS = {
  guards: {
    name: 'every guard of the ledger is in place',
    unit: 'guards',
    named: GUARD_COUNT,
  },
  chart: { name: 'the chart of accounts is what the migrations say', unit: 'types, currencies' },
  leafHashes: { name: 'no event changed since it was written', unit: 'events' },
  sealChain: { name: 'every seal follows from the one before', unit: 'seals' },
  sealedEvents: { name: 'every sealed event is there, as it was sealed', unit: 'sealed events' },
  tiles: { name: 'no sealed tile differs', unit: 'tiles' },
  events: { name: 'every event says what events of its type say', unit: 'events' },
  books: { name: 'the books are what the log opened', unit: 'books' },
  accounts: { name: 'the accounts are what the log opened', unit: 'accounts and slots' },
  entries: { name: 'the entries are what the log posted', unit: 'entries' },
  holds: { name: 'the holds are what the log placed, captured and released', unit: 'hold entries' },
  reversals: {
    name: 'the reversals are what the log says, and none exceeds what it reverses',
    unit: 'reversals',
  },
  states: { name: "every account's limits, state and held amount are what the log says", unit: 'accounts and slots' },
  slots: { name: 'the slots are what the log says, and what slots must be', unit: 'slots' },
  transactions: { name: 'every transaction sums to zero per currency', unit: 'transactions' },
  bookSums: { name: 'every book sums to zero per currency', unit: 'entries' },
  histories: { name: 'every account numbers its entries without gaps and carries its balance', unit: 'entries' },
  balances: { name: 'every balance is the sum of its entries', unit: 'accounts and slots' },
  rules: { name: 'nothing was posted or held that its account did not allow', unit: 'transactions, holds' },
  periods: { name: 'the closed periods are what the log closed', unit: 'periods' },
  tooLate: { name: 'nothing was posted into a closed period', unit: 'periods' },
  certificates: { name: 'every closed period is what its certificate says', unit: 'periods' },
} as const satisfies Record<string, { name: string; unit: string; named?: number }>;

export type Check = keyof typeof CHECKS;

interface Found {
  examined: number;
  faults: number;
  readonly first: string[];
}

/** Collects what each check looked at and found: of the faults only the first are kept. */
export class Findings {
  private readonly found = new Map<Check, Found>();

  examined(check: Check, count = 1): void {
    this.of(check).examined += count;
  }

  fault(check: Check, message: string): void {
    const found = this.of(check);
    found.faults += 1;
    if (found.first.length < namedBy(check)) found.first.push(message);
  }

  result(check: Check, seconds: number): CheckResult {
    const { examined, faults, first } = this.of(check);
    const { name, unit } = CHECKS[check];
    return {
      check: name,
      holds: faults === 0,
      examined: BigInt(examined),
      unit,
      faults: BigInt(faults),
      first,
      seconds,
    };
  }

  private of(check: Check): Found {
    const known = this.found.get(check);
    if (known !== undefined) return known;
    const found = { examined: 0, faults: 0, first: [] };
    this.found.set(check, found);
    return found;
  }
}

function namedBy(check: Check): number {
  const head = CHECKS[check];
  return 'named' in head ? head.named : NAMED_FAULTS;
}

export const nameOf = (check: Check): string => CHECKS[check].name;
export const ALL_CHECKS = Object.keys(CHECKS) as readonly Check[];
