import type { ApiRelation } from './api-schema.ts';
import type { Comparison } from './filters.ts';
import { type FilterValue, isRefusal, type Refusal } from './prepared.ts';
import { findRelationship, type Relationship } from './relationships.ts';
import { type Embed, embedName, type SelectItem } from './selection.ts';

/** One of the comparisons has to hold. */
export type BoundCondition = readonly { readonly comparison: Comparison; readonly value: FilterValue }[];

/** A relation, and what is wanted of it: everything is known by now that SQL has to be written from. */
export interface Resource {
  readonly relation: ApiRelation;
  readonly items: readonly Exclude<SelectItem, Embed>[];
  readonly embeds: readonly ResolvedEmbed[];
  readonly conditions: readonly BoundCondition[];
}

export interface ResolvedEmbed {
  readonly name: string;
  readonly isInner: boolean;
  readonly relationship: Relationship;
  readonly resource: Resource;
}

/** Finds the relationship of every embedded resource, and puts each condition where it belongs. */
export function resolveResource(
  relation: ApiRelation,
  items: readonly SelectItem[],
  about: { readonly relationships: readonly Relationship[]; readonly conditions: readonly BoundCondition[] },
): Resource | Refusal {
  const embeds: ResolvedEmbed[] = [];
  for (const item of items) {
    if (item.kind !== 'embed') continue;
    const resolved = resolveEmbed(relation, item, about);
    if (isRefusal(resolved)) return resolved;
    embeds.push(resolved);
  }
  const lost = about.conditions
    .map(embedOf)
    .find((embed) => !embeds.some(({ name }) => name === (embed ?? name)) && embed);
  if (lost !== undefined) return { code: 'not-embedded', message: `${lost} is not an embedded resource` };
  return {
    relation,
    items: items.flatMap((item) => (item.kind === 'embed' ? [] : [item])),
    embeds,
    conditions: about.conditions.filter((condition) => embedOf(condition) === undefined),
  };
}

const embedOf = (condition: BoundCondition): string | undefined => condition[0]?.comparison.embed;

function resolveEmbed(
  from: ApiRelation,
  embed: Embed,
  { relationships, conditions }: Parameters<typeof resolveResource>[2],
): ResolvedEmbed | Refusal {
  const found = findRelationship(relationships, from, embed);
  if ('refusal' in found) {
    const which = found.names.length === 0 ? '' : `: ${found.names.join(', ')}`;
    return { code: found.refusal, message: `${from.name} and ${embed.target}${which}` };
  }
  const name = embedName(embed);
  const own = conditions
    .filter((condition) => embedOf(condition) === name)
    .map((condition) => condition.map(({ comparison: { embed: _, ...comparison }, value }) => ({ comparison, value })));
  const resource = resolveResource(found.relationship.to, embed.items, { relationships, conditions: own });
  return isRefusal(resource) ? resource : { name, isInner: embed.isInner, relationship: found.relationship, resource };
}
