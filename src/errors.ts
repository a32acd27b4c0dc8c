/**
 * Every failure a user can meet, by a code that never changes. `docs/errors.md` explains each one; a test keeps it
 * complete. `exit` is what the command line ends with: 1 does not hold, 2 wrong usage or input, 3 could not find out.
 */
export const ERROR_CODES = {
  // Usage and configuration
  USAGE: { exit: 2 },
  CONFIG_INVALID: { exit: 2 },
  CONFIG_DATABASE_URL_MISSING: { exit: 2 },

  // The database
  DB_UNREACHABLE: { exit: 3 },
  DB_AUTH_FAILED: { exit: 3 },
  DB_NOT_FOUND: { exit: 3 },
  DB_TOO_OLD: { exit: 3 },
  DB_POOLER_UNSUITABLE: { exit: 3 },
  DB_PERMISSION_DENIED: { exit: 3 },
  DB_DISK_FULL: { exit: 3 },
  DB_CONFLICT: { exit: 3 },
  DB_FAILED: { exit: 3 },
  MIGRATIONS_PENDING: { exit: 3 },
  MIGRATION_FAILED: { exit: 3 },
  MIGRATION_DRIFT: { exit: 3 },

  // The embedded server
  EMBEDDED_POSTGRES_MISSING: { exit: 3 },
  EMBEDDED_POSTGRES_FAILED: { exit: 3 },

  // The ledger
  LEDGER_INVALID: { exit: 2, sqlstate: 'LV001' },
  LEDGER_UNBALANCED: { exit: 2, sqlstate: 'LV002' },
  LEDGER_CURRENCY_UNKNOWN: { exit: 2, sqlstate: 'LV003' },
  LEDGER_CURRENCY_MISMATCH: { exit: 2, sqlstate: 'LV004' },
  LEDGER_ACCOUNT_UNKNOWN: { exit: 2, sqlstate: 'LV005' },
  LEDGER_AMOUNT_INVALID: { exit: 2, sqlstate: 'LV006' },
  LEDGER_AMOUNT_OVERFLOW: { exit: 2, sqlstate: 'LV007' },
  LEDGER_IDEMPOTENCY_CONFLICT: { exit: 2, sqlstate: 'LV008' },
  LEDGER_APPEND_ONLY: { exit: 2, sqlstate: 'LV009' },
  LEDGER_BOOK_UNKNOWN: { exit: 2, sqlstate: 'LV010' },
  LEDGER_ACCOUNT_TYPE_UNKNOWN: { exit: 2, sqlstate: 'LV011' },
  LEDGER_ACCOUNT_FROZEN: { exit: 2, sqlstate: 'LV012' },
  LEDGER_ACCOUNT_CLOSED: { exit: 2, sqlstate: 'LV013' },
  LEDGER_FLOOR_PASSED: { exit: 2, sqlstate: 'LV014' },
  LEDGER_CEILING_PASSED: { exit: 2, sqlstate: 'LV015' },
  LEDGER_HOLD_UNKNOWN: { exit: 2, sqlstate: 'LV016' },
  LEDGER_HOLD_RESOLVED: { exit: 2, sqlstate: 'LV017' },
  LEDGER_HOLD_EXPIRED: { exit: 2, sqlstate: 'LV018' },
  LEDGER_HOLD_EXCEEDED: { exit: 2, sqlstate: 'LV019' },
  LEDGER_PERIOD_CLOSED: { exit: 2, sqlstate: 'LV020' },
  LEDGER_PERIOD_INVALID: { exit: 2, sqlstate: 'LV021' },
  LEDGER_PERIOD_BUSY: { exit: 3, sqlstate: 'LV022' },
  LEDGER_TRANSACTION_UNKNOWN: { exit: 2, sqlstate: 'LV023' },
  LEDGER_REVERSAL_EXCEEDED: { exit: 2, sqlstate: 'LV024' },
  LEDGER_LINK_FAILED: { exit: 2, sqlstate: 'LV025' },
  LEDGER_BOOK_FORBIDDEN: { exit: 2, sqlstate: 'LV026' },
  LEDGER_ACCOUNT_IN_USE: { exit: 2, sqlstate: 'LV027' },
  LEDGER_SLOTS_REFUSED: { exit: 2, sqlstate: 'LV028' },
  LEDGER_BOOK_UNBALANCED: { exit: 1, sqlstate: 'LV029' },
  LEDGER_BUSY: { exit: 3 },
  LEDGER_LINE_INVALID: { exit: 2 },
  LEDGER_EVENT_UNKNOWN: { exit: 2 },

  // Seals and proofs
  SEAL_OUT_OF_CHAIN: { exit: 2, sqlstate: 'LV030' },
  SEAL_NEEDS_READ_COMMITTED: { exit: 2, sqlstate: 'LV031' },
  SEAL_EVENT_NOT_SEALED: { exit: 3 },
  SEAL_ROOT_UNKNOWN: { exit: 2 },
  SEAL_UNKNOWN: { exit: 2 },
  SEAL_BROKEN: { exit: 1 },

  // The replay
  LEGACY_TABLE_MISSING: { exit: 3 },
  LEGACY_COLUMN_MISMATCH: { exit: 3 },
  LEGACY_REVISION_UNKNOWN: { exit: 1 },
  LEGACY_TRUNCATE_REFUSED: { exit: 2, sqlstate: 'LV032' },
  LEGACY_WALLET_FIXED: { exit: 2, sqlstate: 'LV033' },
  MIRROR_OVERFLOW: { exit: 2, sqlstate: 'LV034' },
  LEGACY_RETIRED: { exit: 2, sqlstate: 'LV035' },
  CUTOVER_TOO_EARLY: { exit: 3 },
  CUTOVER_OLD_FUNCTIONS: { exit: 3 },
  CUTOVER_FUNCTION_DIFFERS: { exit: 3 },
  CUTOVER_BUSY: { exit: 3 },
  CUTOVER_OWNER_UNKNOWN: { exit: 2 },
  FINISH_REFUSED: { exit: 1 },
  CAPTURE_NEEDED: { exit: 2 },
  CAPTURE_OFF: { exit: 3 },
  CAPTURE_BUSY: { exit: 3 },
  CAPTURE_INTERRUPTED: { exit: 3 },
  CAPTURE_OTHER_BOOK: { exit: 3 },
  BACKFILL_RUNNING: { exit: 3 },
  BACKFILL_RETIRED: { exit: 2 },
  REBUILD_RUNNING: { exit: 3 },
  REBUILD_BUSY: { exit: 3 },
  REBUILD_REFUSED: { exit: 3 },
  REBUILD_EVENT_REFUSED: { exit: 1 },
  REBUILD_LOG_CHANGED: { exit: 1 },
  BACKFILL_UNFINISHED: { exit: 3 },
  PROOF_FILE_INVALID: { exit: 2 },
  PROOF_FILE_CHANGED: { exit: 1 },
  PROOF_OTHER_DATABASE: { exit: 2 },

  // The outbox
  OUTBOX_ENDPOINT_URL_INVALID: { exit: 2 },
  OUTBOX_ENDPOINT_INVALID: { exit: 2 },
  OUTBOX_ENDPOINT_UNKNOWN: { exit: 2 },
  OUTBOX_ENDPOINT_BUSY: { exit: 3 },
  OUTBOX_SECRET_INVALID: { exit: 2 },
  OUTBOX_ROTATION_UNDER_WAY: { exit: 2 },
  OUTBOX_KEY_MISSING: { exit: 2 },
  OUTBOX_KEY_WRONG: { exit: 2 },
  OUTBOX_TOPIC_INVALID: { exit: 2 },
  OUTBOX_TOPIC_UNKNOWN: { exit: 2 },
  OUTBOX_SCHEMA_INVALID: { exit: 2 },
  OUTBOX_MESSAGE_INVALID: { exit: 2 },
  OUTBOX_PAYLOAD_INVALID: { exit: 2 },
  OUTBOX_TRANSACTION_NEEDED: { exit: 2 },
  OUTBOX_EGRESS_REFUSED: { exit: 2 },
  OUTBOX_ENDPOINT_DISABLED: { exit: 2 },
  OUTBOX_DELIVERY_UNKNOWN: { exit: 2 },
  OUTBOX_MESSAGE_UNKNOWN: { exit: 2 },
  OUTBOX_CONFIRMATION_NEEDED: { exit: 2 },
  OUTBOX_ATTACHMENT_INVALID: { exit: 2, sqlstate: 'LV070' },
  OUTBOX_ATTACHMENT_DIFFERS: { exit: 2, sqlstate: 'LV071' },
  OUTBOX_ATTACHMENT_TABLE_UNKNOWN: { exit: 2 },
  OUTBOX_ATTACHMENT_UNKNOWN: { exit: 2 },
  OUTBOX_ATTACHMENT_BUSY: { exit: 3 },
  OUTBOX_BUSY: { exit: 3 },
  QUEUE_UNREACHABLE: { exit: 3 },
  LISTEN_UNAVAILABLE: { exit: 3 },
  HTTP_UNAVAILABLE: { exit: 3 },

  // The state machines
  STATE_MACHINE_UNKNOWN: { exit: 2, sqlstate: 'LV080' },
  STATE_MACHINE_NOT_INSTALLED: { exit: 2, sqlstate: 'LV081' },
  STATE_EVENT_UNKNOWN: { exit: 2, sqlstate: 'LV082' },
  STATE_UNKNOWN: { exit: 2, sqlstate: 'LV083' },
  STATE_EDGE_REFUSED: { exit: 2, sqlstate: 'LV084' },
  STATE_INITIAL_REFUSED: { exit: 2, sqlstate: 'LV085' },
  STATE_NULL_REFUSED: { exit: 2, sqlstate: 'LV086' },
  STATE_ROLE_REFUSED: { exit: 2, sqlstate: 'LV087' },
  STATE_GUARD_REFUSED: { exit: 2, sqlstate: 'LV088' },
  STATE_ROW_MISSING: { exit: 2, sqlstate: 'LV089' },
  STATE_ROW_LOCKED: { exit: 3, sqlstate: 'LV090' },
  STATE_HISTORY_APPEND_ONLY: { exit: 2, sqlstate: 'LV091' },
  STATE_ROW_FIXED: { exit: 2, sqlstate: 'LV092' },
  STATE_MONEY_KEPT: { exit: 2, sqlstate: 'LV093' },
  STATE_ACCOUNT_KEPT: { exit: 2, sqlstate: 'LV094' },
  STATE_CHANGE_LOST: { exit: 2, sqlstate: 'LV095' },
  STATE_DECLARATION_INVALID: { exit: 2 },
  STATE_TABLE_UNSUITABLE: { exit: 2 },
  STATE_TABLE_BUSY: { exit: 3 },

  // The restructuring
  RESTRUCTURE_MAPPING_INVALID: { exit: 2 },
  RESTRUCTURE_PLAN_INVALID: { exit: 2 },
  RESTRUCTURE_OTHER_DATABASE: { exit: 2 },
  RESTRUCTURE_OTHER_VERSION: { exit: 2 },
  RESTRUCTURE_RECORDING_INVALID: { exit: 2 },
  RESTRUCTURE_ROWS_HIDDEN: { exit: 3 },
  RESTRUCTURE_TABLE_UNKNOWN: { exit: 2 },
  RESTRUCTURE_DRIFTED: { exit: 1, sqlstate: 'LV096' },
  RESTRUCTURE_CHANGED_MORE: { exit: 1, sqlstate: 'LV097' },
  RESTRUCTURE_STEP_UNKNOWN: { exit: 2, sqlstate: 'LV098' },
  RESTRUCTURE_NAMES_DIFFER: { exit: 1, sqlstate: 'LV099' },
  RESTRUCTURE_TOO_LONG: { exit: 3 },
  RESTRUCTURE_BUSY: { exit: 3 },
  RESTRUCTURE_RUNNING: { exit: 3 },
  PERF_OTHER_ROWS: { exit: 2 },
  PERF_OTHER_QUESTIONS: { exit: 2 },

  // Tables by month
  PARTITIONS_MAPPING_INVALID: { exit: 2 },
  PARTITIONS_TABLE_UNKNOWN: { exit: 2, sqlstate: 'LV101' },
  PARTITIONS_NULL_KEY: { exit: 1 },
  PARTITIONS_KEY_TWICE: { exit: 1 },
  PARTITIONS_DRIFTED: { exit: 1 },
  PARTITIONS_WOULD_GO: { exit: 1 },
  PARTITIONS_ROWS_GONE: { exit: 1 },
  PARTITIONS_DIFFERENT: { exit: 1 },
  PARTITIONS_TRUNCATE_REFUSED: { exit: 2, sqlstate: 'LV100' },
  PARTITIONS_TOO_LONG: { exit: 3 },
  PARTITIONS_BUSY: { exit: 3 },
  PARTITIONS_RUNNING: { exit: 3 },
  PARTITIONS_NO_CRON: { exit: 2 },

  // Embeddings
  EMBEDDING_INVALID: { exit: 2, sqlstate: 'LV120' },
  EMBEDDING_DIMENSIONS: { exit: 2, sqlstate: 'LV121' },
  EMBEDDING_MODEL_UNKNOWN: { exit: 2, sqlstate: 'LV122' },
  EMBEDDING_MODEL_RETIRED: { exit: 2, sqlstate: 'LV123' },
  EMBEDDING_MODEL_FIXED: { exit: 2, sqlstate: 'LV124' },
  EMBEDDING_MODEL_IN_USE: { exit: 2, sqlstate: 'LV125' },
  EMBEDDING_INCOMPLETE: { exit: 1, sqlstate: 'LV126' },
  EMBEDDING_MISSING: { exit: 2, sqlstate: 'LV127' },
  EMBEDDING_SEARCH_INVALID: { exit: 2, sqlstate: 'LV128' },
  EMBEDDING_SUBJECTS_UNSUITABLE: { exit: 2, sqlstate: 'LV129' },
  EMBEDDING_EXTENSION_MISSING: { exit: 3 },
  EMBEDDING_BUSY: { exit: 3 },

  // Rollups
  ROLLUP_UNKNOWN: { exit: 2, sqlstate: 'LV110' },
  ROLLUP_HORIZON_BEHIND: { exit: 3, sqlstate: 'LV111' },
  ROLLUP_SOURCE_MISSING: { exit: 3, sqlstate: 'LV112' },
  ROLLUP_SOURCE_EMPTY: { exit: 2, sqlstate: 'LV113' },
  ROLLUP_TABLE_MISSING: { exit: 3, sqlstate: 'LV114' },
  ROLLUP_WOULD_LOSE: { exit: 2, sqlstate: 'LV115' },
  ROLLUP_DECLARATION_INVALID: { exit: 2 },
  ROLLUP_DIFFERS: { exit: 2 },
  ROLLUP_TO_BE_REBUILT: { exit: 1 },
  ROLLUP_BUSY: { exit: 3 },
  ROLLUP_TOO_LONG: { exit: 3 },

  // Reports
  REPORT_PERIOD_INVALID: { exit: 2 },
  REPORT_BROWSER_MISSING: { exit: 3 },
  REPORT_BROWSER_FAILED: { exit: 3 },

  // The console
  CONSOLE_EXPOSED: { exit: 2 },
  CONSOLE_READER_MISSING: { exit: 3 },
  CONSOLE_USER_INVALID: { exit: 2 },
  CONSOLE_INVALID: { exit: 2 },
  CONSOLE_NOT_FOUND: { exit: 2 },
  CONSOLE_SIGNED_OUT: { exit: 2 },
  CONSOLE_FORBIDDEN: { exit: 2 },
  CONSOLE_FORGED: { exit: 2 },
  CONSOLE_TOO_MANY: { exit: 2 },
  VERIFICATION_RUNNING: { exit: 3 },
  VERIFICATION_NOT_KEPT: { exit: 3 },

  // The demo
  DEMO_RUNNING: { exit: 3 },
  DEMO_DATABASE_NOT_OURS: { exit: 3 },
  DEMO_STOPPED: { exit: 3 },

  // Whatever the command
  STOPPED: { exit: 3 },
  SYSTEM_FAILED: { exit: 3 },
  INTERNAL: { exit: 3 },
} as const satisfies Record<string, { exit: 1 | 2 | 3; sqlstate?: string }>;

export type ErrorCode = keyof typeof ERROR_CODES;

/** A failure with a stable code. `message` says what, which id, both values, and what to do next, in one line. */
export class AppError extends Error {
  override readonly name = 'AppError';
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, options: { details?: Record<string, unknown>; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
  }

  get exitCode(): 1 | 2 | 3 {
    return ERROR_CODES[this.code].exit;
  }
}
