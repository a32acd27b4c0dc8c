/** What there are embeddings of. */
export const KINDS = ['event', 'sponsor', 'package'] as const;
export type Kind = (typeof KINDS)[number];

export const tableOf = (kind: Kind): string => `ml.${kind}_embeddings`;

/** The column that says of which one. */
export const subjectColumn = (kind: Kind): string => `${kind}_id`;
