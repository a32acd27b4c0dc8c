/** Which column of which relation a column of a view shows as it is. */
export interface Origin {
  readonly column: string;
  readonly relation: number;
  /** The number of the relation's column. */
  readonly attribute: number;
}

const TARGET =
  /TARGETENTRY [^{}]*?:resname ((?:\\.|[^ \\])+) [^{}]*?:resorigtbl (\d+) :resorigcol (\d+) :resjunk false/gu;

/**
 * What a view's columns show, from the tree of its rule as the catalog has it: the server notes there where each column of a result comes
 * from, and says it nowhere else. Columns that are computed are left out.
 */
export const originsIn = (ruleTree: string): readonly Origin[] =>
  [...upToDepth(ruleTree, 2).matchAll(TARGET)].flatMap(([, name = '', relation = '0', attribute = '0']) =>
    relation === '0'
      ? []
      : [{ column: name.replaceAll(/\\(.)/gu, '$1'), relation: Number(relation), attribute: Number(attribute) }],
  );

/** The tree without what lies deeper: expressions, and the queries inside of the query, which have columns of their own. */
function upToDepth(tree: string, deepest: number): string {
  const kept: string[] = [];
  let depth = 0;
  let from = 0;
  for (let at = 0; at < tree.length; at += 1) {
    const character = tree[at];
    if (character === '\\') at += 1;
    else if (character === '{') {
      if (depth === deepest) kept.push(tree.slice(from, at));
      depth += 1;
    } else if (character === '}') {
      depth -= 1;
      if (depth === deepest) from = at + 1;
    }
  }
  kept.push(tree.slice(from));
  return kept.join('');
}
