import { request } from 'undici';

/** What came back. */
interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** The token of the page's forms. */
  readonly csrf: string;
}

/** Somebody who has cookies and no scripts, and can write any header. */
export interface Browsing {
  readonly cookies: ReadonlyMap<string, string>;
  get(path: string, headers?: Record<string, string>): Promise<Answer>;
  post(path: string, fields: Record<string, string>, headers?: Record<string, string>): Promise<Answer>;
  /** Takes the token from a page first: that of the path itself, unless told. */
  submit(path: string, fields: Record<string, string>, options?: { from?: string }): Promise<Answer>;
}

export function browse(base: string): Browsing {
  const cookies = new Map<string, string>();
  const ask = async (
    path: string,
    init: { method: 'GET' | 'POST'; body?: string },
    given: Record<string, string> = {},
  ): Promise<Answer> => {
    const cookie = [...cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const form = init.body === undefined ? {} : { 'content-type': 'application/x-www-form-urlencoded' };
    const {
      statusCode: status,
      headers: raw,
      body,
    } = await request(new URL(path, base), {
      ...init,
      headers: { ...form, ...given, ...(cookie === '' ? {} : { cookie }) },
    });
    const headers = new Headers(
      Object.entries(raw).flatMap(([name, value]) =>
        [value ?? []].flat().map((each): [string, string] => [name, each]),
      ),
    );
    for (const text of headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(text) ?? [];
      if (value === '') cookies.delete(name);
      else cookies.set(name, value);
    }
    const text = await body.text();
    return { status, headers, text, csrf: /name="_csrf" value="([^"]*)"/.exec(text)?.[1] ?? '' };
  };
  const post: Browsing['post'] = (path, fields, headers) =>
    ask(path, { method: 'POST', body: new URLSearchParams(fields).toString() }, headers);
  return {
    cookies,
    get: (path, headers) => ask(path, { method: 'GET' }, headers),
    post,
    submit: async (path, fields, { from = path } = {}) => {
      const { csrf } = await ask(from, { method: 'GET' });
      return await post(path, { _csrf: csrf, ...fields });
    },
  };
}
