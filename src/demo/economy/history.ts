import { setImmediate as breathe } from 'node:timers/promises';
import { HISTORY_STARTS, timestamp } from './calendar.ts';
import type { CopyWriter } from './copy-writer.ts';
import { type HazardCounts, HazardPlan, noHazards, sumOfHazards } from './hazards.ts';
import { OrgWalletLife } from './org-wallet.ts';
import { Random } from './random.ts';
import { NOWHERE, type RowSink } from './rows.ts';
import { departedUsers, rowsByKind, sharesOf, type WalletShare } from './shares.ts';
import { UserWalletLife } from './user-wallet.ts';
import type { LifeInput, Staff, WalletLife } from './wallet-life.ts';

interface Size {
  readonly wallets: number;
  readonly orgWallets: number;
  readonly transactions: number;
  readonly seed: number;
}

export interface FillProgress {
  /** First every history is lived through for its last balance, then again to be written; then come the indexes. */
  readonly step: 'plan' | 'write' | 'index';
  /** Transaction rows so far, and in all; of the last step, indexes and keys. */
  readonly done: number;
  readonly total: number;
}

/** One stream of chance for each: a number here never changes, or every seed means another database. */
const PURPOSE = { staff: 1, userShares: 2, orgShares: 3, hazards: 4, user: 5, org: 6 };

const ADMINISTRATORS = 3;
const MOST_OPENING_CREDITS = 5_000;
const AUTO_RELOAD_IN = 10;
const FLOWS_BETWEEN_BREATHS = 20_000;

/**
 * The whole platform's history. Every wallet lives twice from the same numbers: once to learn its last balance, so that
 * its row can come before the rows that refer to it, and once to be written. Nothing is held between the two.
 */
export class History {
  readonly #size: Size;
  readonly #writer: CopyWriter;
  readonly #onProgress: (progress: FillProgress) => void;
  readonly #staff: Staff;
  #planned = 0;
  #flows = 0;
  #written = 0;
  #planted: HazardCounts = noHazards();
  balanceCredits = { users: 0n, organizations: 0n };

  constructor(input: { size: Size; writer: CopyWriter; onProgress: (progress: FillProgress) => void }) {
    this.#size = input.size;
    this.#writer = input.writer;
    this.#onProgress = input.onProgress;
    this.#staff = this.#hire();
  }

  planted(): HazardCounts {
    return { ...this.#planted, userDeleted: this.#staff.departedIds.length };
  }

  /** Writes everybody and every wallet, with the balance that its life will lead to. */
  async foundAndPlan(): Promise<void> {
    for (const id of this.#staff.administratorIds) {
      this.#addUser(id, HISTORY_STARTS, `admin-${id.slice(0, 8)}`);
    }
    for (const life of this.#users(NOWHERE)) {
      await this.#plan(life);
      this.#addUserWallet(life);
      this.balanceCredits.users += BigInt(life.balance);
    }
    for (const life of this.#organizations(NOWHERE)) {
      await this.#plan(life);
      this.#addOrganization(life);
      this.balanceCredits.organizations += BigInt(life.balance);
    }
    await this.#writer.flush();
  }

  async liveOrganizations(): Promise<void> {
    for (const life of this.#organizations(this.#writer)) await this.#write(life);
    await this.#writer.flush();
  }

  async liveUsers(): Promise<void> {
    for (const life of this.#users(this.#writer)) await this.#write(life);
    await this.#writer.flush();
    this.#report('write', this.#written);
  }

  async #plan(life: WalletLife): Promise<void> {
    const before = this.#planned;
    for (const _ of life.live()) {
      this.#flows += 1;
      if (this.#flows % FLOWS_BETWEEN_BREATHS !== 0) continue;
      this.#report('plan', before + life.rowsBooked);
      await breathe();
    }
    this.#planned = before + life.rowsBooked;
    if (this.#writer.isFull) await this.#writer.flush();
  }

  async #write(life: WalletLife): Promise<void> {
    for (const _ of life.live()) {
      if (!this.#writer.isFull) continue;
      await this.#writer.flush();
      this.#report('write', this.#written + life.rowsBooked);
    }
    this.#written += life.rowsBooked;
  }

  #report(step: FillProgress['step'], done: number): void {
    this.#onProgress({ step, done, total: this.#size.transactions });
  }

  #hire(): Staff {
    const random = new Random({ seed: this.#size.seed, purpose: PURPOSE.staff, index: 0 });
    const administratorIds = Array.from({ length: ADMINISTRATORS }, () => random.uuid());
    const departedIds = Array.from({ length: departedUsers(this.#size.wallets) }, () => random.uuid());
    return { administratorIds: administratorIds as [string, ...string[]], departedIds };
  }

  *#users(sink: RowSink): Generator<UserWalletLife> {
    const { user: rows } = rowsByKind(this.#size);
    const hazards = this.#hazards(0);
    const random = new Random({ seed: this.#size.seed, purpose: PURPOSE.userShares, index: 0 });
    for (const [index, share] of sharesOf({ wallets: this.#size.wallets, rows, random, hazards }).entries()) {
      yield new UserWalletLife(this.#lifeInput({ purpose: PURPOSE.user, index, share, hazards, sink }));
    }
    this.#keepCounts(sink, hazards);
  }

  *#organizations(sink: RowSink): Generator<OrgWalletLife> {
    const { org: rows } = rowsByKind(this.#size);
    const hazards = this.#hazards(1);
    const random = new Random({ seed: this.#size.seed, purpose: PURPOSE.orgShares, index: 0 });
    for (const [index, share] of sharesOf({ wallets: this.#size.orgWallets, rows, random, hazards }).entries()) {
      yield new OrgWalletLife(this.#lifeInput({ purpose: PURPOSE.org, index, share, hazards, sink }));
    }
    this.#keepCounts(sink, hazards);
  }

  #lifeInput(input: {
    purpose: number;
    index: number;
    share: WalletShare;
    hazards: HazardPlan;
    sink: RowSink;
  }): LifeInput {
    const { purpose, index, share, hazards, sink } = input;
    const random = new Random({ seed: this.#size.seed, purpose, index });
    const openingCredits = share.openingWithoutRows ? random.between(1, MOST_OPENING_CREDITS) : 0;
    return { random, hazards, sink, staff: this.#staff, rows: share.rows, openingCredits };
  }

  #hazards(kind: number): HazardPlan {
    return new HazardPlan(new Random({ seed: this.#size.seed, purpose: PURPOSE.hazards, index: kind }));
  }

  // Each life is lived twice, but its hazards are in the data once.
  #keepCounts(sink: RowSink, hazards: HazardPlan): void {
    if (sink !== NOWHERE) this.#planted = sumOfHazards(this.#planted, hazards.planted);
  }

  #addUser(id: string, at: number, name: string): void {
    this.#writer.add('auth.users', [id, `${name}@example.test`, timestamp(at)]);
  }

  #addUserWallet(life: UserWalletLife): void {
    const status = life.status();
    const reload = life.random.oneIn(AUTO_RELOAD_IN);
    this.#addUser(life.userId, life.openedAt, `user-${life.userId.slice(0, 8)}`);
    this.#writer.add('public.wallets', [
      life.walletId,
      life.userId,
      life.balance,
      reload,
      reload ? 2_500 : null,
      reload ? `pm_${life.random.token()}` : null,
      status,
      timestamp(life.openedAt),
      timestamp(life.now),
    ]);
  }

  #addOrganization(life: OrgWalletLife): void {
    const name = life.orgId.slice(0, 8);
    const at = timestamp(life.openedAt);
    this.#addUser(life.ownerId, life.openedAt, `owner-${name}`);
    this.#writer.add('public.organizations', [
      life.orgId,
      `Organization ${name}`,
      `org-${life.orgId}`,
      life.ownerId,
      at,
      `support@${name}.example.test`,
    ]);
    this.#writer.add('public.org_memberships', [life.orgId, life.ownerId, 'owner', at]);
    const status = life.status();
    this.#writer.add('public.org_wallets', [life.walletId, life.orgId, life.balance, status, at, timestamp(life.now)]);
  }
}
