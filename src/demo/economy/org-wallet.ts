import { dailyCharge } from './ad-spend.ts';
import { REFERENCES_RENAMED, timestamp } from './calendar.ts';
import { offer, purchasedLot, writeInvoice } from './purchases.ts';
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

/** Of a hundred flows. What is left over is ad spend. */
const PURCHASES = 24;
const REFUNDS = 5;
const ADJUSTMENTS = 6;
const DEPARTED_IN = 10;

/** An organization's wallet: rows in org_wallet_transactions, which its checks keep to sign and non-zero; lots, invoices. */
export class OrgWalletLife extends WalletLife {
  readonly orgId: string;
  readonly ownerId: string;

  constructor(input: LifeInput) {
    super(input, (orgWalletId) => ({ orgWalletId }));
    this.orgId = this.random.uuid();
    this.ownerId = this.random.uuid();
  }

  protected override flow(): void {
    const flow = this.choose();
    switch (flow) {
      case 'forge':
        this.forgeCredit();
        break;
      case 'buy':
        this.buy();
        break;
      case 'refund':
        this.refund();
        break;
      case 'adjust':
        this.adjust();
        break;
      case 'spend':
        this.spend();
        break;
      default:
        flow satisfies never;
    }
  }

  private choose(): 'forge' | 'buy' | 'refund' | 'adjust' | 'spend' {
    if (this.hazards.strikes('forgedOrgCredit')) return 'forge';
    if (this.leavesWithRefund) return 'refund';
    const share = this.random.below(100);
    if (this.mustBuy) return 'buy';
    if (share < PURCHASES && this.mayBuy) return 'buy';
    if (share < PURCHASES + REFUNDS) return 'refund';
    if (share < PURCHASES + REFUNDS + ADJUSTMENTS) return 'adjust';
    return 'spend';
  }

  private buy(): void {
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

  private refund(): void {
    const purchase = this.refundable();
    if (purchase === undefined) {
      this.spend();
      return;
    }
    this.hazards.strikes('refundedInvoiceNotRefunded');
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

  private adjust(): void {
    const credits = this.random.between(1, 30) * 50;
    this.book({
      type: 'adjustment',
      delta: this.random.oneIn(3) ? -credits : credits,
      description: this.random.pick(['Manual adjustment', 'goodwill', null]),
      reference: { type: 'system', id: this.actingUserId() },
    });
  }

  private spend(): void {
    const charge = dailyCharge(this.random, this.spendable);
    if (charge === undefined) {
      this.buy();
      return;
    }
    const readBefore = this.staleBalance;
    this.lots.take(charge.credits, this.now);
    const campaignId = this.random.pick(this.campaignIds);
    const key = this.random.oneIn(3) ? undefined : `${campaignId}:${this.random.token()}`;
    const row: Row = {
      type: 'spend',
      delta: -charge.credits,
      description: 'Campaign spend',
      reference: { type: this.now < REFERENCES_RENAMED ? 'campaign_spend' : 'campaign', id: campaignId },
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
