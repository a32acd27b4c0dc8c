import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

export interface TestCertificates {
  /** The file of a CA that nobody knows. */
  readonly caFile: string;
  /** Of that CA, for localhost. */
  readonly good: Certificate;
  readonly wrongHost: Certificate;
  readonly expired: Certificate;
  readonly selfSigned: Certificate;
  remove(): void;
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

/** What a company makes for itself, with openssl. */
export function makeCertificates(): TestCertificates {
  const folder = mkdtempSync(join(tmpdir(), 'liventix-tls-'));
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
  const read = (name: string): Certificate => ({
    cert: readFileSync(join(folder, `${name}.pem`), 'utf8'),
    key: readFileSync(join(folder, `${name}.key`), 'utf8'),
  });
  const sign = (name: string, host: string, days: number): Certificate => {
    writeFileSync(join(folder, `${name}.ext`), `subjectAltName=DNS:${host}\n`);
    openssl('req', ...NEW_KEY, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${host}`);
    const ca = ['-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial'];
    openssl(
      'x509',
      '-req',
      '-in',
      `${name}.csr`,
      ...ca,
      '-out',
      `${name}.pem`,
      '-days',
      `${days}`,
      '-extfile',
      `${name}.ext`,
    );
    return read(name);
  };
  const signItself = (name: string, subject: string, ...more: string[]) =>
    openssl(
      'req',
      '-x509',
      ...NEW_KEY,
      '-keyout',
      `${name}.key`,
      '-out',
      `${name}.pem`,
      '-subj',
      subject,
      '-days',
      '2',
      ...more,
    );
  signItself('ca', '/CN=Test CA');
  signItself('self', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost');
  return {
    caFile: join(folder, 'ca.pem'),
    good: sign('good', 'localhost', 2),
    wrongHost: sign('other', 'other.test', 2),
    expired: sign('expired', 'localhost', -1),
    selfSigned: read('self'),
    remove: () => rmSync(folder, { recursive: true }),
  };
}
