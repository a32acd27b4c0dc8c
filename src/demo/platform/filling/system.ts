import { HISTORY_STARTS, MICROS_PER_SECOND, timestamp } from '../../economy/calendar.ts';
import { exactly, json, part, type Recipes } from './recipe.ts';
import { someTime } from './traffic.ts';
import { itemOf } from './world.ts';

const FUNCTIONS = ['create-checkout', 'process-payment', 'send-reminders', 'scan-ticket'] as const;
const BREAKERS = ['payments', 'email', 'video'] as const;
const SETTINGS = ['feature_flags', 'home_feed_weights', 'maintenance_window', 'support_hours'] as const;
const MICROS_PER_MINUTE = 60 * MICROS_PER_SECOND;

export const SYSTEM: Recipes = {
  request_logs: part(900, (row) => {
    someTime(row);
    const failed = row.random.oneIn(20);
    return {
      source_type: 'edge_function',
      function_name: row.random.pick(FUNCTIONS),
      http_method: row.random.pick(['GET', 'POST', 'POST']),
      response_status: failed ? 500 : 200,
      error_message: failed ? 'upstream timed out' : null,
    };
  }),
  rate_limits: part(300, (row) => {
    // Each row has a minute of its own: one user meets the limit of one bucket in many.
    row.at = HISTORY_STARTS + row.index * MICROS_PER_MINUTE;
    return {
      user_id: itemOf(row.world.people, row.index),
      bucket: row.random.pick(['checkout', 'posts', 'search']),
      minute: timestamp(row.at),
      count: row.random.between(1, 60),
    };
  }),
  idempotency_keys: part(300, (row) => {
    someTime(row);
    return {
      key: `checkout-${row.random.token()}`,
      user_id: row.world.busyPerson(row.random),
      response: json({ status: 200 }),
    };
  }),
  dead_letter_webhooks: part(80, (row) => {
    someTime(row);
    return {
      webhook_type: row.random.pick(['stripe', 'video']),
      payload: json({ id: `evt_${row.random.token()}`, type: 'payment_intent.succeeded' }),
      original_timestamp: timestamp(row.at - MICROS_PER_MINUTE),
      failure_reason: row.random.oneIn(6) ? null : 'upstream timed out',
    };
  }),
  mv_refresh_log: part(80, (row) => {
    someTime(row);
    return {
      id: row.index + 1,
      ran_at: timestamp(row.at),
      concurrent: row.random.oneIn(2),
      duration_ms: row.random.below(9_000),
    };
  }),
  circuit_breaker_state: exactly(BREAKERS.length, (row) => {
    someTime(row);
    return { id: itemOf(BREAKERS, row.index), state: row.index === 1 ? 'open' : 'closed' };
  }),
  kv_store_d42c04e8: exactly(SETTINGS.length, (row) => ({
    key: itemOf(SETTINGS, row.index),
    value: json({ on: row.index % 2 === 0 }),
  })),
};
