type Operator = 'eq' | 'neq' | 'gt' | 'gte' | 'lt' | 'lte' | 'like' | 'ilike' | 'in' | 'is';

const OPERATORS: ReadonlySet<string> = new Set<Operator>([
  'eq',
  'neq',
  'gt',
  'gte',
  'lt',
  'lte',
  'like',
  'ilike',
  'in',
  'is',
]);

export interface Comparison {
  readonly operator: Operator;
  /** What the embedded resource is called whose rows are compared; undefined for the table itself. */
  readonly embed?: string;
  readonly column: string;
}

/** One of them has to hold. */
export type Condition = readonly Comparison[];

/** What narrows an access down, but for the values. */
export interface Criteria {
  readonly conditions: readonly Condition[];
  readonly order: readonly string[];
  readonly part?: 'limit' | 'range';
  /** How many rows there may be: exactly one, or one at most. */
  readonly cardinality?: 'single' | 'maybeSingle';
}

/** Reads the filters of an access; undefined where one of them is not known. */
export function parseFilters(filters: readonly string[]): Criteria | undefined {
  const conditions: Condition[] = [];
  const order: string[] = [];
  let rest: Pick<Criteria, 'part' | 'cardinality'> = {};
  for (const filter of filters) {
    const [kind = '', ...after] = filter.split(':');
    const what = after.join(':');
    if (filter === 'single' || filter === 'maybeSingle') rest = { ...rest, cardinality: filter };
    else if (filter === 'limit' || filter === 'range') rest = { ...rest, part: filter };
    else if (kind === 'order' && what !== '') order.push(what);
    else {
      const condition = kind === 'or' ? parseOr(what) : parseComparison(kind, what);
      if (condition === undefined) return undefined;
      conditions.push(condition);
    }
  }
  return { conditions, order, ...rest };
}

function parseComparison(operator: string, path: string): Condition | undefined {
  if (!isOperator(operator)) return undefined;
  const [first = '', second] = path.split('.');
  return [second === undefined ? { operator, column: first } : { operator, embed: first, column: second }];
}

/** `a.eq.1,b.in.2`: what they are compared with is drawn as for the others. */
function parseOr(text: string): Condition | undefined {
  const comparisons = text.split(/,(?![^{(]*[})])/u).flatMap((each) => {
    const [column = '', operator = ''] = each.split('.');
    return isOperator(operator) ? [{ operator, column }] : [];
  });
  return comparisons.length === 0 ? undefined : comparisons;
}

const isOperator = (text: string): text is Operator => OPERATORS.has(text);
