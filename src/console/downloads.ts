import type { ServerResponse } from 'node:http';
import { AppError } from '../errors.ts';

/** Lists that go out as files, some at a time. */
export interface Downloads {
  /** Counts one until its answer has been sent, or nobody is there to read it. @throws AppError CONSOLE_TOO_MANY */
  begin(response: ServerResponse): void;
}

export function createDownloads(most: number): Downloads {
  let underWay = 0;
  return {
    begin: (response) => {
      if (underWay >= most) {
        throw new AppError(
          'CONSOLE_TOO_MANY',
          `${most} downloads are under way, and this console makes no more at a time. Wait until one has ended, or narrow yours.`,
        );
      }
      underWay += 1;
      response.once('close', () => {
        underWay -= 1;
      });
    },
  };
}
