/**
 * The screens, and the part of their state that is in the address. The route is in the fragment, because the
 * server must answer an unknown path with 404, and because access logs then contain no names of services.
 */
import {
  createHashHistory,
  createRootRoute,
  createRoute,
  createRouter,
  lazyRouteComponent,
} from '@tanstack/react-router';
import { Overview } from '../screens/overview/overview';
import { Crashed, NotFound } from './fallback';
import { Shell } from './shell';

const text = (value: unknown): string | undefined =>
  typeof value === 'string' && value !== '' ? value : typeof value === 'number' ? String(value) : undefined;

/** The named parameters of the address that are text. Others are dropped. */
function texts<K extends string>(...names: K[]) {
  return (search: Record<string, unknown>): { [name in K]?: string | undefined } =>
    Object.fromEntries(names.map((name) => [name, text(search[name])])) as { [name in K]?: string | undefined };
}

/**
 * Each screen is a separate file, so that the first screen does not wait for all files. If a file cannot be
 * loaded, its screen shows an error. The router would reload the page instead, from a node that may be
 * unreachable.
 */
const FILES = {
  cluster: () => import('../screens/cluster/cluster'),
  services: () => import('../screens/services/services'),
  service: () => import('../screens/service/service'),
  dependencies: () => import('../screens/dependencies/dependencies'),
  traces: () => import('../screens/traces/traces'),
  alerts: () => import('../screens/alerts/alerts'),
  keys: () => import('../screens/keys/keys'),
  audit: () => import('../screens/audit/audit'),
  config: () => import('../screens/config/config'),
  access: () => import('../screens/access/access'),
};

type Files = typeof FILES;

const SCREENS = Object.fromEntries(
  Object.entries(FILES).map(([name, load]) => [
    name,
    () =>
      (load as () => Promise<unknown>)().catch((error: unknown) => {
        throw new Error('The files of this screen could not be fetched. Try again when the node is back.', { cause: error });
      }),
  ]),
) as Files;

/**
 * Loads the other screens when the page is idle, because they must be loaded before the serving node
 * becomes unreachable.
 */
export function fetchScreens(): void {
  const later = window.requestIdleCallback ?? ((act: () => void) => setTimeout(act, 500));
  later(() => {
    // If a file cannot be loaded now, it is requested again when its screen is opened.
    for (const load of Object.values(SCREENS)) void load().catch(() => undefined);
  });
}

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound, errorComponent: Crashed });

const overview = createRoute({ getParentRoute: () => root, path: '/', component: Overview });

const cluster = createRoute({
  getParentRoute: () => root,
  path: '/cluster',
  component: lazyRouteComponent(SCREENS.cluster, 'ClusterScreen'),
});

const services = createRoute({
  getParentRoute: () => root,
  path: '/services',
  validateSearch: texts('q', 'health', 'ns', 'sort'),
  component: lazyRouteComponent(SCREENS.services, 'ServicesScreen'),
});

const service = createRoute({
  getParentRoute: () => root,
  path: '/services/$namespace/$service',
  validateSearch: texts('tab', 'q', 'health', 'instance', 'rev'),
  component: lazyRouteComponent(SCREENS.service, 'ServiceScreen'),
});

const dependencies = createRoute({
  getParentRoute: () => root,
  path: '/dependencies',
  component: lazyRouteComponent(SCREENS.dependencies, 'DependenciesScreen'),
});

const traces = createRoute({
  getParentRoute: () => root,
  path: '/traces',
  validateSearch: texts('q', 'status', 'trace'),
  component: lazyRouteComponent(SCREENS.traces, 'TracesScreen'),
});

const alerts = createRoute({
  getParentRoute: () => root,
  path: '/alerts',
  validateSearch: texts('show'),
  component: lazyRouteComponent(SCREENS.alerts, 'AlertsScreen'),
});

const keys = createRoute({
  getParentRoute: () => root,
  path: '/keys',
  validateSearch: texts('tab', 'prefix', 'key', 'session'),
  component: lazyRouteComponent(SCREENS.keys, 'KeysScreen'),
});

const audit = createRoute({
  getParentRoute: () => root,
  path: '/audit',
  validateSearch: texts('user', 'action', 'object', 'outcome', 'seq'),
  component: lazyRouteComponent(SCREENS.audit, 'AuditScreen'),
});

const config = createRoute({
  getParentRoute: () => root,
  path: '/config',
  component: lazyRouteComponent(SCREENS.config, 'ConfigScreen'),
});

const access = createRoute({
  getParentRoute: () => root,
  path: '/access',
  validateSearch: texts('tab'),
  component: lazyRouteComponent(SCREENS.access, 'AccessScreen'),
});

export const router = createRouter({
  routeTree: root.addChildren([overview, cluster, services, service, dependencies, traces, alerts, keys, audit, config, access]),
  history: createHashHistory(),
  // Parameters are read and written as plain text, so that an instance called "5" or "true" stays a text.
  parseSearch: (search) => Object.fromEntries(new URLSearchParams(search)),
  stringifySearch: (search) => {
    const params = new URLSearchParams();
    for (const [key, value] of Object.entries(search)) {
      if (value !== undefined && value !== null && value !== '') params.set(key, String(value));
    }
    const out = params.toString();
    return out ? `?${out}` : '';
  },
  defaultErrorComponent: Crashed,
  defaultPreload: 'intent',
  scrollRestoration: false,
});

declare module '@tanstack/react-router' {
  interface Register {
    router: typeof router;
  }
}
