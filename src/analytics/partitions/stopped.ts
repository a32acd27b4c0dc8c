import { AppError } from '../../errors.ts';

export const stopped = (): AppError => new AppError('STOPPED', 'Stopped. Run it again: it goes on where it was.');
