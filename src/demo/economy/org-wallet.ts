import { dailyCharge } from './ad-spend.ts';
import { REFERENCES_RENAMED, timestamp } from './calendar.ts';
import { offer, type Purchase, purchasedLot, writeInvoice } from './purchases.ts';
import { type LifeInput, WalletLife } from './wallet-life.ts';

interface Row {
  readonly type: 'purchase' | 'spend' | 'refund' | 'adjustment';
  readonly delta: number;
  readonly description: string | null;
  readonly reference?: { readonly type: string | null; readonly id: string };
  readonly invoiceId?: string;
  readonly eventId?: string;
  readonly metadata?: Readonly<Record<string, string>>;
}

const DEPARTED_IN = 10;

/** An organization's wallet: rows in org_wallet_transactions, which its checks keep to sign and non-zero; lots, invoices. */
export class OrgWalletLife extends WalletLife {
  readonly orgId: string;
  readonly ownerId: string;
  protected override readonly purchases = 24;

  constructor(input: LifeInput) {
    super(input, (orgWalletId) => ({ orgWalletId }));
    this.orgId = this.random.uuid();
    this.ownerId = this.random.uuid();
  }

  protected override flow(): void {
    if (this.hazards.strikes('forgedOrgCredit')) this.forgeCredit();
    else this.ordinaryFlow(() => this.spend());
  }

  protected override buy(): void {
    const bought = offer(this.random);
    // Hazard 13: nothing ever marked an organization's invoice paid.
    this.hazards.strikes('orgInvoicePendingAfterCredit');
    const invoiceId = writeInvoice(this.sink, this.random, {
      owner: { orgWalletId: this.walletId },
      offer: bought,
      status: 'pending',
      buyerId: this.buyerId(),
      openedAt: this.openedAt,
      settledAt: this.now,
    });
    const purchase = { ...bought, invoiceId };
    this.book({
      type: 'purchase',
      delta: bought.credits,
      description: 'Credit purchase',
      invoiceId,
      eventId: `evt_${this.random.token()}`,
      ...(this.now < REFERENCES_RENAMED ? { reference: { type: 'credit_purchase', id: invoiceId } } : {}),
    });
    this.lots.add(purchasedLot(this.random, purchase, this.now));
    this.remember(purchase);
  }

  // Hazard 12: where the buyer was deleted since, the cascade left an invoice that nobody bought.
  private buyerId(): string | null {
    return this.staff.departedIds.length > 0 && this.random.oneIn(DEPARTED_IN) ? null : this.ownerId;
  }

  protected override refundOf(purchase: Purchase): void {
    // Hazard 2: the second part's row broke the unique index, so only the first part is here.
    const partial = this.hazards.strikes('orgSecondRefundMissing') || this.random.oneIn(2);
    const percent = partial ? this.random.between(20, 60) : 100;
    this.book({
      type: 'refund',
      delta: -Math.floor((purchase.paidCents * percent) / 100),
      description: 'Refund',
      invoiceId: purchase.invoiceId,
      eventId: `evt_${this.random.token()}`,
    });
  }

  protected override adjust(): void {
    this.book({
      type: 'adjustment',
      delta: this.adjustment(),
      description: this.random.pick(['Manual adjustment', 'goodwill', null]),
      reference: { type: 'system', id: this.actingUserId() },
    });
  }

  protected override spend(): void {
    const charge = dailyCharge(this.random, this.spendable);
    if (charge === undefined) {
      this.buy();
      return;
    }
    const { campaignId, readBefore } = this.takeLots(charge);
    const key = this.random.oneIn(3) ? undefined : `${campaignId}:${this.random.token()}`;
    const row: Row = {
      type: 'spend',
      delta: -charge.credits,
      description: 'Campaign spend',
      reference: this.campaignReference(campaignId),
      ...(key === undefined ? {} : { metadata: { idempotency_key: key, metric: charge.rateModel } }),
    };
    this.hazards.strikes('orgSpendUnrecorded');
    this.book(row);
    this.overwriteBalance({ readBefore, credits: charge.credits });
    // Hazard 11: the key stands in the metadata, where nothing makes it unique.
    if (key === undefined || this.rowsLeft === 0 || !this.hazards.strikes('spendKeyRepeated')) return;
    this.pass();
    this.hazards.strikes('orgSpendUnrecorded');
    this.book(row);
  }

  // Hazard 10: org_wallet_apply_purchase was granted to everybody, and asked for neither invoice nor event.
  private forgeCredit(): void {
    this.book({ type: 'purchase', delta: this.random.between(1, 20) * 500, description: 'Credit purchase' });
  }

  private book(row: Row): void {
    this.sink.add('public.org_wallet_transactions', [
      this.random.uuid(),
      this.walletId,
      row.type,
      row.delta,
      row.description,
      row.reference?.type ?? null,
      row.reference?.id ?? null,
      row.invoiceId ?? null,
      row.eventId ?? null,
      JSON.stringify(row.metadata ?? {}),
      timestamp(this.now),
    ]);
    this.bookRow(row.delta);
  }
}
