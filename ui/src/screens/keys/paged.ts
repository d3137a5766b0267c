/** A list that the server gives page by page: what is loaded, and the next page when the reader is near the end. */
import { useInfiniteQuery } from '@tanstack/react-query';
import { useCallback, useMemo } from 'react';
import type { Paged } from '../../api/kv';

export function usePaged<T>(options: Paged<T>) {
  const query = useInfiniteQuery(options);
  const items = useMemo(() => query.data?.pages.flatMap((page) => page.items), [query.data]);
  const { fetchNextPage, hasNextPage, isFetchingNextPage } = query;
  const nearEnd = useCallback(() => {
    if (hasNextPage && !isFetchingNextPage) void fetchNextPage();
  }, [fetchNextPage, hasNextPage, isFetchingNextPage]);
  return { query: { ...query, data: items }, nearEnd, more: hasNextPage };
}
