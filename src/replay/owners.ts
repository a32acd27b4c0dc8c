import { SOURCES, type Source } from './sources.ts';

/** Whose wallets. */
export type Owners = { readonly kind: Source['ownerKind']; readonly id: string } | 'all';

/** The source and the owner's id, both null for all of them. */
export function ownerFilter(owners: Owners): [source: string | null, ownerId: string | null] {
  if (owners === 'all') return [null, null];
  return [SOURCES.find(({ ownerKind }) => ownerKind === owners.kind)?.name ?? null, owners.id];
}
