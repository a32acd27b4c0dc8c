import type { NewReversal, NewTransaction } from '../../src/ledger/ledger.ts';

/** What the ledger is, in memory: the rules once more, by somebody who has not read the SQL. All amounts debit positive. */
export interface ModelAccount {
  readonly id: string;
  readonly currency: string;
  /** 1 where the balance reads positive in debit, -1 where in credit. */
  readonly side: 1n | -1n;
  balance: bigint;
  floor: bigint | undefined;
  ceiling: bigint | undefined;
  status: 'open' | 'frozen' | 'closed';
  /** Kept in so many, where it is in more than one: its balance is one all the same, but it has no limits and no holds. */
  slots?: number;
}

interface ModelHold {
  readonly account: ModelAccount;
  remaining: bigint;
  state: 'active' | 'captured' | 'voided' | 'expired';
}

type Legs = ReadonlyMap<string, bigint>;
export type Request = NewTransaction | NewReversal;
/** `posted`, `duplicate`, or the code that it is refused with. */
export type Verdict = string;

export class LedgerModel {
  readonly accounts = new Map<string, ModelAccount>();
  readonly holds = new Map<string, ModelHold>();
  /** What is left of each transaction to reverse, by account. */
  private readonly left = new Map<string, Map<string, bigint>>();
  /** The bodies of what was posted, by key. */
  private readonly known = new Map<string, string>();
  private closedUntil: Date | undefined;
  /** The effective dates of what was posted with one of its own. */
  private effectiveAts: Date[] = [];

  available(account: ModelAccount): bigint {
    const held = [...this.holds.values()]
      .filter((hold) => hold.account === account && hold.state === 'active')
      .reduce((sum, { remaining }) => sum + remaining, 0n);
    return account.side * account.balance - held;
  }

  close(until: Date): Verdict {
    if (this.closedUntil !== undefined && until <= this.closedUntil) return 'LEDGER_PERIOD_CLOSED';
    this.closedUntil = until;
    return 'closed';
  }

  /** How many transactions were effective before. What was posted without a date is effective when it was posted. */
  effectiveBefore(until: Date): number {
    return this.effectiveAts.filter((at) => at < until).length;
  }

  /** What a call must answer, one verdict a request. Linked ones stand or fall together. */
  postAll(requests: readonly Request[]): Verdict[] {
    const verdicts: Verdict[] = [];
    for (let from = 0; from < requests.length; ) {
      let to = from;
      while (to < requests.length - 1 && requests[to]?.linked === true) to += 1;
      verdicts.push(...this.postChain(requests.slice(from, to + 1)));
      from = to + 1;
    }
    return verdicts;
  }

  /** What a single request would be answered now, without being carried out. */
  judge(request: Request): Verdict {
    const before = this.copy();
    const verdict = this.post(request);
    this.restore(before);
    return verdict;
  }

  private postChain(chain: readonly Request[]): Verdict[] {
    const before = this.copy();
    const verdicts: Verdict[] = [];
    for (const request of chain) {
      let verdict = this.post(request);
      if (request === chain.at(-1) && request.linked === true && isDone(verdict)) verdict = 'LEDGER_INVALID';
      verdicts.push(verdict);
      if (isDone(verdict)) continue;
      if (chain.length > 1 || request.linked === true) this.restore(before);
      return chain.map((_, nth) => (nth === verdicts.length - 1 ? verdict : 'LEDGER_LINK_FAILED'));
    }
    return verdicts;
  }

  private post(request: Request): Verdict {
    const key = request.idempotencyKey ?? request.transactionId;
    const known = key === undefined ? undefined : this.known.get(key);
    const body = JSON.stringify(request, (_name, value) => (typeof value === 'bigint' ? value.toString() : value));
    const again = known === undefined ? undefined : known === body ? 'duplicate' : 'LEDGER_IDEMPOTENCY_CONFLICT';
    const reverses = 'reverses' in request ? request.reverses : undefined;
    if (reverses !== undefined) {
      if (again !== undefined) return again;
      if (!this.left.has(reverses)) return 'LEDGER_TRANSACTION_UNKNOWN';
    }
    const legs = this.legsOf(request);
    if (legs === 'LEDGER_REVERSAL_EXCEEDED' || legs === 'LEDGER_UNBALANCED') return legs;
    if (again !== undefined) return again;
    const fault = this.fault(request, legs);
    if (fault !== undefined) return fault;

    for (const [id, cents] of legs) this.account(id).balance += cents;
    if ('capture' in request && request.capture !== undefined) this.capture(request.capture, legs);
    if (reverses !== undefined) {
      const left = this.left.get(reverses);
      for (const [id, cents] of legs) left?.set(id, (left.get(id) ?? 0n) + cents);
    }
    if (request.effectiveAt !== undefined) this.effectiveAts.push(request.effectiveAt);
    if (request.transactionId !== undefined) this.left.set(request.transactionId, new Map(legs));
    if (key !== undefined) this.known.set(key, body);
    return 'posted';
  }

  /** Net movement per account. */
  private legsOf(request: Request): Legs | 'LEDGER_UNBALANCED' | 'LEDGER_REVERSAL_EXCEEDED' {
    const left = 'reverses' in request ? this.left.get(request.reverses) : undefined;
    if (request.entries === undefined) {
      const rest = [...(left ?? [])].filter(([, cents]) => cents !== 0n).map(([id, cents]) => [id, -cents] as const);
      return rest.length === 0 ? 'LEDGER_REVERSAL_EXCEEDED' : new Map(rest);
    }
    const legs = new Map<string, bigint>();
    const sums = new Map<string, bigint>();
    for (const { accountId, amountCents, currency } of request.entries) {
      legs.set(accountId, (legs.get(accountId) ?? 0n) + amountCents);
      sums.set(currency, (sums.get(currency) ?? 0n) + amountCents);
    }
    const exceeds = ([id, cents]: readonly [string, bigint]) => {
      const rest = left?.get(id) ?? 0n;
      return cents !== 0n && (cents > 0n === rest > 0n || magnitude(cents) > magnitude(rest));
    };
    if (left !== undefined && [...legs].some(exceeds)) return 'LEDGER_REVERSAL_EXCEEDED';
    return [...sums.values()].some((sum) => sum !== 0n) ? 'LEDGER_UNBALANCED' : legs;
  }

  private fault(request: Request, legs: Legs): Verdict | undefined {
    if (isBefore(request.effectiveAt, this.closedUntil)) return 'LEDGER_PERIOD_CLOSED';
    const touched = [...legs.keys()].toSorted().map((id) => this.account(id));
    const unusable = touched.find(({ status }) => status !== 'open');
    if (unusable !== undefined) return `LEDGER_ACCOUNT_${unusable.status.toUpperCase()}`;
    const captured =
      'capture' in request && request.capture !== undefined ? this.captureFault(request.capture, legs) : undefined;
    if (typeof captured === 'string') return captured;
    for (const account of touched) {
      const moved = account.side * (legs.get(account.id) ?? 0n);
      const freed = captured?.account === account ? captured.released : 0n;
      if (moved < 0n && account.floor !== undefined && this.available(account) + moved + freed < account.floor) {
        return 'LEDGER_FLOOR_PASSED';
      }
      if (moved > 0n && account.ceiling !== undefined && account.side * account.balance + moved > account.ceiling) {
        return 'LEDGER_CEILING_PASSED';
      }
    }
    return undefined;
  }

  private captureFault(
    capture: { holdId: string; final?: boolean },
    legs: Legs,
  ): Verdict | { account: ModelAccount; released: bigint } {
    const hold = this.holds.get(capture.holdId);
    if (hold === undefined) return 'LEDGER_HOLD_UNKNOWN';
    const spent = -hold.account.side * (legs.get(hold.account.id) ?? 0n);
    // Whether the log says so already or not.
    if (hold.state === 'expired') return 'LEDGER_HOLD_EXPIRED';
    if (hold.state !== 'active') return 'LEDGER_HOLD_RESOLVED';
    if (spent <= 0n) return 'LEDGER_INVALID';
    if (spent > hold.remaining) return 'LEDGER_HOLD_EXCEEDED';
    return { account: hold.account, released: capture.final === true ? hold.remaining : spent };
  }

  private capture(capture: { holdId: string; final?: boolean }, legs: Legs): void {
    const hold = this.holds.get(capture.holdId);
    if (hold === undefined) return;
    hold.remaining =
      capture.final === true ? 0n : hold.remaining + hold.account.side * (legs.get(hold.account.id) ?? 0n);
    if (hold.remaining === 0n) hold.state = 'captured';
  }

  placeHold(holdId: string, accountId: string, amountCents: bigint): Verdict {
    const account = this.account(accountId);
    if (account.status !== 'open') return `LEDGER_ACCOUNT_${account.status.toUpperCase()}`;
    if (account.slots !== undefined) return 'LEDGER_SLOTS_REFUSED';
    if (account.floor !== undefined && this.available(account) - amountCents < account.floor)
      return 'LEDGER_FLOOR_PASSED';
    this.holds.set(holdId, { account, remaining: amountCents, state: 'active' });
    return 'placed';
  }

  voidHold(holdId: string): Verdict {
    const hold = this.holds.get(holdId);
    if (hold === undefined) return 'LEDGER_HOLD_UNKNOWN';
    if (hold.state === 'voided') return 'duplicate';
    if (hold.state !== 'active') return 'LEDGER_HOLD_RESOLVED';
    Object.assign(hold, { state: 'voided', remaining: 0n });
    return 'voided';
  }

  change(
    accountId: string,
    change: { status?: ModelAccount['status']; floorCents?: bigint | null; ceilingCents?: bigint | null },
  ): Verdict {
    const account = this.account(accountId);
    if (account.slots !== undefined && (change.floorCents ?? change.ceilingCents ?? null) !== null)
      return 'LEDGER_SLOTS_REFUSED';
    const floor = change.floorCents === undefined ? account.floor : (change.floorCents ?? undefined);
    const ceiling = change.ceilingCents === undefined ? account.ceiling : (change.ceilingCents ?? undefined);
    if (floor !== undefined && ceiling !== undefined && floor > ceiling) return 'LEDGER_INVALID';
    const isIdle = account.balance === 0n && this.available(account) === 0n;
    if ((change.status ?? account.status) === 'closed' && !isIdle) return 'LEDGER_ACCOUNT_IN_USE';
    Object.assign(account, { floor, ceiling, status: change.status ?? account.status });
    return 'changed';
  }

  addSlots(accountId: string, slots: number): Verdict {
    const account = this.account(accountId);
    if ((account.slots ?? 1) >= slots) return 'slotted';
    const isHeld = [...this.holds.values()].some((hold) => hold.account === account && hold.state === 'active');
    const isLimited = account.floor !== undefined || account.ceiling !== undefined;
    if (account.status !== 'open' || isLimited || isHeld) return 'LEDGER_SLOTS_REFUSED';
    account.slots = slots;
    return 'slotted';
  }

  private account(id: string): ModelAccount {
    const account = this.accounts.get(id);
    if (account === undefined) throw new Error(`the model has no account ${id}`);
    return account;
  }

  private copy() {
    return {
      balances: [...this.accounts.values()].map((account) => [account, account.balance] as const),
      holds: [...this.holds.values()].map((hold) => [hold, { ...hold }] as const),
      left: [...this.left].map(([id, legs]) => [id, new Map(legs)] as const),
      known: [...this.known],
      effectiveAts: [...this.effectiveAts],
    };
  }

  private restore(before: ReturnType<LedgerModel['copy']>): void {
    for (const [account, balance] of before.balances) account.balance = balance;
    for (const [hold, was] of before.holds) Object.assign(hold, was);
    replace(this.left, before.left);
    replace(this.known, before.known);
    this.effectiveAts = [...before.effectiveAts];
  }
}

function isBefore(at: Date | undefined, until: Date | undefined): boolean {
  return at !== undefined && until !== undefined && at < until;
}

function isDone(verdict: Verdict): boolean {
  return verdict === 'posted' || verdict === 'duplicate';
}

function magnitude(cents: bigint): bigint {
  return cents < 0n ? -cents : cents;
}

function replace<K, V>(map: Map<K, V>, entries: Iterable<readonly [K, V]>): void {
  map.clear();
  for (const [key, value] of entries) map.set(key, value);
}
