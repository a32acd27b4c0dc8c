import { MICROS_PER_DAY, MICROS_PER_SECOND, type Micros, timestamp } from './calendar.ts';
import type { Lot } from './lots.ts';
import type { Random } from './random.ts';
import type { RowSink } from './rows.ts';

/** A purchase that may be refunded later. */
export interface Purchase {
  readonly invoiceId: string;
  readonly paidCents: number;
  readonly credits: number;
}

const PACKAGES_CENTS = [500, 500, 1_000, 1_000, 1_000, 2_500, 2_500, 5_000, 10_000] as const;
const PROMOTED_IN = 8;
const OVERPAID_IN = 300;
const OVERPAID_FEE_CENTS = 179;
const LOT_LIVES_DAYS = 365;

/** What is bought for what: mostly a credit per cent, sometimes more credits than paid, rarely fewer. */
export function offer(random: Random): Pick<Purchase, 'paidCents' | 'credits'> & { promoCode: string | null } {
  const price = random.pick(PACKAGES_CENTS);
  if (random.oneIn(PROMOTED_IN)) {
    const [promoCode, percent] = random.pick([
      ['TEN', 110],
      ['LAUNCH20', 120],
    ] as const);
    return { paidCents: price, credits: (price * percent) / 100, promoCode };
  }
  if (random.oneIn(OVERPAID_IN)) return { paidCents: price + OVERPAID_FEE_CENTS, credits: price, promoCode: null };
  return { paidCents: price, credits: price, promoCode: null };
}

export interface InvoiceOf {
  readonly owner: { walletId: string } | { orgWalletId: string };
  readonly offer: ReturnType<typeof offer>;
  readonly status: 'pending' | 'paid' | 'failed';
  readonly buyerId: string | null;
  readonly openedAt: Micros;
  readonly settledAt: Micros;
}

/** Writes the invoice. Returns its id. */
export function writeInvoice(sink: RowSink, random: Random, invoice: InvoiceOf): string {
  const id = random.uuid();
  const token = random.token();
  const createdAt = Math.max(invoice.openedAt, invoice.settledAt - random.between(5, 600) * MICROS_PER_SECOND);
  const paid = invoice.status === 'paid';
  sink.add('public.invoices', [
    id,
    'walletId' in invoice.owner ? invoice.owner.walletId : null,
    'orgWalletId' in invoice.owner ? invoice.owner.orgWalletId : null,
    `pi_${token}`,
    invoice.offer.paidCents,
    invoice.offer.credits,
    invoice.offer.promoCode,
    invoice.status,
    paid ? `https://pay.example.test/receipts/${token}` : null,
    invoice.buyerId,
    timestamp(createdAt),
    timestamp(paid ? invoice.settledAt : createdAt),
  ]);
  return id;
}

export function purchasedLot(random: Random, purchase: Purchase, now: Micros): Lot {
  return {
    id: random.uuid(),
    quantity: purchase.credits,
    remaining: purchase.credits,
    unitPriceCents: Math.round(purchase.paidCents / purchase.credits),
    source: 'purchase',
    checkoutSessionId: `cs_${random.token()}`,
    invoiceId: purchase.invoiceId,
    createdAt: now,
    expiresAt: random.oneIn(2) ? now + LOT_LIVES_DAYS * MICROS_PER_DAY : null,
    depletedAt: null,
  };
}

export function promoLot(random: Random, credits: number, now: Micros): Lot {
  return {
    id: random.uuid(),
    quantity: credits,
    remaining: credits,
    unitPriceCents: 0,
    source: 'promo',
    checkoutSessionId: null,
    invoiceId: null,
    createdAt: now,
    expiresAt: now + LOT_LIVES_DAYS * MICROS_PER_DAY,
    depletedAt: null,
  };
}

export function writeLot(sink: RowSink, lot: Lot, owner: InvoiceOf['owner']): void {
  sink.add('public.credit_lots', [
    lot.id,
    'walletId' in owner ? owner.walletId : null,
    'orgWalletId' in owner ? owner.orgWalletId : null,
    lot.quantity,
    lot.remaining,
    lot.unitPriceCents,
    lot.source,
    lot.checkoutSessionId,
    lot.invoiceId,
    lot.expiresAt === null ? null : timestamp(lot.expiresAt),
    timestamp(lot.createdAt),
    lot.depletedAt === null ? null : timestamp(lot.depletedAt),
  ]);
}
