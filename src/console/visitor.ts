import type { CONSOLE_ROLES } from '../config.ts';
import { AppError } from '../errors.ts';

export type Role = (typeof CONSOLE_ROLES)[number];

/** Who asks, and how he is known: on this machine, by a password, or by what a proxy says of him. */
export interface Visitor {
  readonly name: string;
  readonly roles: readonly Role[];
  readonly knownBy: 'local' | 'password' | 'proxy';
}

/** Who may do what. Looking is for every role. */
const PERMISSIONS = {
  'verify the books': ['operator', 'finance'],
  'retry deliveries': ['operator'],
  'replay messages': ['operator'],
  'rehearse a cut-over': ['operator'],
} as const satisfies Readonly<Record<string, readonly Role[]>>;

export type Permission = keyof typeof PERMISSIONS;

export function may(visitor: Visitor, permission: Permission): boolean {
  const roles: readonly Role[] = PERMISSIONS[permission];
  return visitor.roles.some((role) => roles.includes(role));
}

/** @throws AppError CONSOLE_FORBIDDEN */
export function assertMay(visitor: Visitor, permission: Permission): void {
  if (may(visitor, permission)) return;
  throw new AppError(
    'CONSOLE_FORBIDDEN',
    `To ${permission}, one needs to be ${PERMISSIONS[permission].join(' or ')}; ${visitor.name} is ${visitor.roles.join(' and ')}. Nothing was done: ask whoever gives the roles.`,
  );
}
