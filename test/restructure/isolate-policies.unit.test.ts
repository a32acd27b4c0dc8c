import { expect, it } from 'vitest';
import { type AskedOnce, askedOnce } from '../../src/restructure/tenancy/old-policies.ts';

const CONSTANTS = ['auth.uid', 'auth.role'];
const CALLS: readonly AskedOnce[] = [
  { name: 'public.manages', arguments: 1, becomes: '$1 = any ((select public.managed())::uuid[])' },
  { name: 'public.has_role', arguments: 2, becomes: '$1 = any ((select public.groups_as($2))::uuid[])' },
];

it.each([
  ['(user_id = auth.uid())', '(user_id = (select auth.uid()))'],
  ['(user_id = ( SELECT auth.uid() AS uid))', '(user_id = ( SELECT auth.uid() AS uid))'],
  ['public.manages(event_id)', '(event_id = any ((select public.managed())::uuid[]))'],
  [
    "((user_id = auth.uid()) OR public.manages(event_id) OR (auth.role() = 'service'::text))",
    "((user_id = (select auth.uid())) OR (event_id = any ((select public.managed())::uuid[])) OR ((select auth.role()) = 'service'::text))",
  ],
  [
    "public.has_role(org_id, ARRAY['owner'::text, 'a,b('::text])",
    "(org_id = any ((select public.groups_as(ARRAY['owner'::text, 'a,b('::text]))::uuid[]))",
  ],
  [
    '(EXISTS ( SELECT FROM x.orders o WHERE ((o.id = lines.order_id) AND public.manages(o.event_id))))',
    '(EXISTS ( SELECT FROM x.orders o WHERE ((o.id = lines.order_id) AND (o.event_id = any ((select public.managed())::uuid[])))))',
  ],
  ['public.manages(public.event_of(id, 2))', '(public.event_of(id, 2) = any ((select public.managed())::uuid[]))'],
])('%s asks once', (said, asks) => {
  expect(askedOnce(said, CONSTANTS, CALLS)).toBe(asks);
});

it.each([
  ["(note = 'auth.uid() or public.manages(x)'::text)"],
  ["(note = 'it''s auth.uid()'::text)"],
  ['("auth.uid()" = 1)'],
  ['(my_auth.uid() = x)'],
  ['public.manages(a, b)'],
  // What looks at the answer could tell nothing from no.
  ['(NOT public.manages(event_id))'],
  ['(NOT (is_open OR public.manages(event_id)))'],
  ['(public.manages(event_id) IS NOT TRUE)'],
  ['(public.manages(event_id) = false)'],
  ['public.refuses(public.manages(event_id))'],
  ['COALESCE(public.manages(event_id), true)'],
  ['CASE WHEN public.manages(event_id) THEN false ELSE true END'],
])('%s stays as it is', (said) => {
  expect(askedOnce(said, CONSTANTS, CALLS)).toBe(said);
});
