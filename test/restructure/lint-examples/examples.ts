/** What breaks a rule, with where (`1.sql`, `2.sql`, … in this order); or what resembles that and does not. */
export type Example = readonly [what: string, sql: string | readonly string[], where?: readonly string[]];

/** By rule. */
export type Examples = Readonly<
  Record<string, { readonly bad: readonly Example[]; readonly good: readonly Example[] }>
>;

export const VIEW = 'create view public.orders with (security_invoker = true) as select id, total from sales.orders;';
export const MOVE = 'alter table public.orders set schema sales;';
export const MOVED = `${MOVE}\n${VIEW}`;
export const DAYS = 'create table public.days (id bigint, day date) partition by range (day);';
export const DAY =
  "create table public.days_1 partition of public.days for values from ('2026-01-01') to ('2026-01-02');";
