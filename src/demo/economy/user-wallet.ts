import { dailyCharge } from './ad-spend.ts';
import { REFERENCES_RENAMED, timestamp } from './calendar.ts';
import { offer, type Purchase, promoLot, purchasedLot, writeInvoice } from './purchases.ts';
import { type LifeInput, WalletLife } from './wallet-life.ts';

interface Row {
  readonly type: 'purchase' | 'spend' | 'refund' | 'adjustment' | 'promo';
  readonly delta: number;
  readonly usdCents?: number;
  readonly reference?: { readonly type: string | null; readonly id: string };
  readonly memo: string | null;
  readonly key?: string;
}

/** Of a hundred flows. */
const PROMOS = 3;
const ABANDONED_IN = 12;
const FORGED_CREDITS = 99_999;

/** A user's wallet: rows in wallet_transactions, lots, invoices, and ad_spend_ledger where its insert did not fail. */
export class UserWalletLife extends WalletLife {
  readonly userId: string;
  protected override readonly purchases = 22;

  constructor(input: LifeInput) {
    super(input, (walletId) => ({ walletId }));
    this.userId = this.random.uuid();
  }

  protected override flow(): void {
    if (this.hazards.strikes('forgedCredit')) this.forgeCredit();
    else if (this.hazards.strikes('zeroRow')) this.bookNothing();
    else this.ordinaryFlow((share) => (share < PROMOS ? this.promote() : this.spend()));
  }

  protected override buy(): void {
    const bought = offer(this.random);
    const invoice = { owner: { walletId: this.walletId }, buyerId: this.userId, openedAt: this.openedAt };
    if (this.random.oneIn(ABANDONED_IN)) {
      const status = this.random.pick(['pending', 'failed'] as const);
      writeInvoice(this.sink, this.random, { ...invoice, offer: bought, status, settledAt: this.now });
    }
    const status = this.hazards.strikes('invoicePendingAfterCredit') ? 'pending' : 'paid';
    const settled = { ...invoice, offer: bought, status, settledAt: this.now } as const;
    const purchase = { ...bought, invoiceId: writeInvoice(this.sink, this.random, settled) };
    this.credit(purchase);
    this.lots.add(purchasedLot(this.random, purchase, this.now));
    this.remember(purchase);
    // Hazard 1: the checkout's event and the payment's, each under its own key.
    if (this.rowsLeft > 0 && this.hazards.strikes('purchaseCreditedTwice')) this.credit(purchase);
  }

  private credit(purchase: Purchase): void {
    this.book({
      type: 'purchase',
      delta: purchase.credits,
      usdCents: purchase.paidCents,
      reference: { type: this.now < REFERENCES_RENAMED ? 'credit_purchase' : 'invoice', id: purchase.invoiceId },
      memo: 'Credit purchase via Stripe',
      key: `evt_${this.random.token()}`,
    });
  }

  protected override refundOf(purchase: Purchase): void {
    // Hazard 2: the second refund takes what both took together.
    if (this.rowsLeft > 1 && this.hazards.strikes('refundCumulative')) {
      const [first, second] = [this.random.between(20, 45), this.random.between(20, 45)];
      this.giveBack(purchase, Math.floor((purchase.paidCents * first) / 100));
      this.pass();
      this.giveBack(purchase, Math.floor((purchase.paidCents * (first + second)) / 100));
      return;
    }
    const percent = this.random.oneIn(2) ? 100 : this.random.between(20, 60);
    this.giveBack(purchase, Math.floor((purchase.paidCents * percent) / 100));
  }

  // The invoice stays as it is, and so do the lots: hazards 13 and 5.
  private giveBack(purchase: Purchase, cents: number): void {
    this.book({
      type: 'refund',
      delta: -cents,
      usdCents: -cents,
      reference: { type: 'invoice', id: purchase.invoiceId },
      memo: 'Stripe refund',
      key: `evt_${this.random.token()}`,
    });
  }

  protected override adjust(): void {
    this.book({
      type: 'adjustment',
      delta: this.adjustment(),
      reference: { type: 'system', id: this.actingUserId() },
      memo: this.random.pick(['goodwill', 'Manual adjustment', 'Correction of\ta late charge', null]),
    });
  }

  private promote(): void {
    const credits = this.random.between(1, 10) * 100;
    this.book({ type: 'promo', delta: credits, memo: 'Welcome credits' });
    if (this.random.oneIn(2)) this.lots.add(promoLot(this.random, credits, this.now));
  }

  protected override spend(): void {
    let charge = dailyCharge(this.random, this.spendable);
    if (charge !== undefined && this.hazards.strikes('lotsTakenSpendFailed')) {
      this.lots.take(charge.credits, this.now);
      charge = dailyCharge(this.random, this.spendable);
    }
    // Without lots a spend failed, though the balance was there.
    if (charge === undefined) {
      this.buy();
      return;
    }
    const { campaignId, readBefore } = this.takeLots(charge);
    const booked = this.book({
      type: 'spend',
      delta: -charge.credits,
      reference: this.campaignReference(campaignId),
      memo: `Ad spend: ${charge.quantity} ${charge.rateModel === 'cpm' ? 'impressions' : 'clicks'}`,
      ...(this.random.oneIn(2) ? { key: `spend_${this.random.token()}` } : {}),
    });
    if (booked.delta < 0) this.overwriteBalance({ readBefore, credits: charge.credits });
    this.recordAdSpend({ ...charge, campaignId, transactionId: booked.id });
  }

  private recordAdSpend(
    spent: { campaignId: string; transactionId: string } & NonNullable<ReturnType<typeof dailyCharge>>,
  ): void {
    if (this.hazards.strikes('userSpendUnrecorded')) return;
    if (this.hazards.strikes('spendDeletedCreditReturned')) {
      this.balance += spent.credits;
      return;
    }
    this.sink.add('public.ad_spend_ledger', [
      this.random.uuid(),
      spent.campaignId,
      this.walletId,
      spent.rateModel === 'cpm' ? 'impression' : 'click',
      spent.quantity,
      spent.rateModel,
      this.hazards.strikes('rateTimesHundred') ? spent.rateCents * 100 : spent.rateCents,
      spent.credits,
      timestamp(this.now),
      spent.transactionId,
      timestamp(this.now),
    ]);
  }

  private bookNothing(): void {
    const type = this.random.pick(['spend', 'adjustment', 'refund'] as const);
    this.book({ type, delta: 0, reference: { type: 'campaign', id: this.campaignIds[0] }, memo: null });
  }

  /** Hazard 10: inserted by the user; then a recompute, which also wipes whatever else had drifted. */
  private forgeCredit(): void {
    const cents = this.random.between(1, 20) * 500;
    const before = this.balance;
    this.book(
      this.random.pick<Row>([
        { type: 'promo', delta: FORGED_CREDITS, memo: 'mine' },
        { type: 'purchase', delta: cents, memo: null },
        {
          type: 'purchase',
          delta: cents,
          usdCents: cents,
          reference: { type: 'invoice', id: this.random.uuid() },
          memo: 'Credit purchase via Stripe',
        },
      ]),
    );
    this.balance = this.hazards.strikes('forgedCreditNotMinted') ? before : this.rowSum;
  }

  /** Writes the row and moves the balance by what it says: hazards 3 and 9 strike here. */
  private book(row: Row): { id: string; delta: number } {
    // What users forged has the sign they wanted; it never has a processor's key.
    const signed = row.delta !== 0 && (row.type === 'spend' || (row.usdCents !== undefined && row.key !== undefined));
    const delta = signed && this.hazards.strikes('wrongSign') ? -row.delta : row.delta;
    const id = this.random.uuid();
    this.sink.add('public.wallet_transactions', [
      id,
      this.walletId,
      row.type,
      delta,
      row.usdCents ?? null,
      ...this.reference(row),
      row.memo,
      row.key ?? null,
      timestamp(this.now),
    ]);
    this.bookRow(delta);
    return { id, delta };
  }

  private reference({ reference }: Row): readonly [type: string | null, id: string | null] {
    if (reference === undefined) return [null, null];
    const type = this.hazards.strikes('referenceTypeMissing') ? null : reference.type;
    if (!this.hazards.strikes('referenceNotUuid')) return [type, reference.id];
    const number = this.random.between(1_000, 9_999);
    return [type, this.random.pick([`ticket #${number}`, `in_${number}`, `campaign-${number}`, ''])];
  }
}
