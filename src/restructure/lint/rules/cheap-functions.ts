/**
 * Functions of PostgreSQL that a policy may call bare: those that are immutable, for one type at least, which cost what an operator
 * costs, and those that tell the time of the transaction. The others of its functions, such as `current_setting`, are asked for every
 * row, like one's own.
 */
export const CHEAP_FUNCTIONS: ReadonlySet<string> = new Set(
  `abs age array_append array_cat array_length array_lower array_position array_prepend array_remove array_upper ascii btrim cardinality ceil
ceiling chr date_bin date_part date_trunc decode encode extract floor initcap int4range int8range isempty isfinite json_array_length
json_extract_path json_extract_path_text json_typeof jsonb_array_length jsonb_exists jsonb_extract_path jsonb_extract_path_text
jsonb_typeof justify_days justify_hours left length lower lower_inc lower_inf lpad ltrim make_date make_interval md5 mod now
num_nonnulls num_nulls numrange octet_length overlay position power range_merge regexp_match regexp_replace repeat replace reverse right
round rpad rtrim sha256 sha512 sign split_part sqrt starts_with string_to_array strpos substr substring timezone
transaction_timestamp translate trunc tsrange tstzrange daterange upper upper_inc upper_inf width_bucket`.split(/\s+/),
);
