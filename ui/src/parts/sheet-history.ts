/** Side sheets are entries of the browser's history, so that Back closes them. */
import { useRouter } from '@tanstack/react-router';

declare module '@tanstack/history' {
  interface HistoryState {
    /** Whether this entry was made by opening a sheet on the screen of the entry before. */
    sheet?: boolean;
  }
}

/** Options of a navigation that opens a sheet. */
export const OPENS_SHEET = { replace: false, state: { sheet: true } } as const;

/** Closes a sheet: by going back to the entry before it, or, if the page was opened with the sheet, by `otherwise`. */
export function useCloseSheet(): (otherwise: () => void) => void {
  const router = useRouter();
  return (otherwise) => {
    if (router.state.location.state.sheet) router.history.back();
    else otherwise();
  };
}
