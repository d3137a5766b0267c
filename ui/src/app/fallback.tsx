/** The pages for an unknown address and for a screen that failed. */
import { Link, useRouter, type ErrorComponentProps } from '@tanstack/react-router';
import { asProblem } from '../api/problem';
import { Screen } from '../parts/layout';
import { Empty, Failed } from '../parts/states';

export function NotFound() {
  return (
    <Screen title="Page not found">
      <Empty title="There is no page at this address.">
        <Link to="/">Go to the overview</Link>
      </Empty>
    </Screen>
  );
}

export function Crashed({ error, reset }: ErrorComponentProps) {
  const router = useRouter();
  return (
    <Screen title="This screen failed">
      <Failed
        problem={asProblem(error)}
        retry={() => {
          reset();
          void router.invalidate();
        }}
      />
    </Screen>
  );
}
