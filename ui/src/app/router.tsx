/**
 * The screens and what of them is in the address. The route is kept in the fragment: an unknown
 * path must answer 404 by the HTTP contract, and so service names stay out of access logs.
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

/** The named parts of the address that are text; others are dropped. */
function texts<K extends string>(...names: K[]) {
  return (search: Record<string, unknown>): { [name in K]?: string | undefined } =>
    Object.fromEntries(names.map((name) => [name, text(search[name])])) as { [name in K]?: string | undefined };
}

const root = createRootRoute({ component: Shell, notFoundComponent: NotFound, errorComponent: Crashed });

const overview = createRoute({ getParentRoute: () => root, path: '/', component: Overview });

const cluster = createRoute({
  getParentRoute: () => root,
  path: '/cluster',
  component: lazyRouteComponent(() => import('../screens/cluster/cluster'), 'ClusterScreen'),
});

const services = createRoute({
  getParentRoute: () => root,
  path: '/services',
  validateSearch: texts('q', 'health', 'ns', 'sort'),
  component: lazyRouteComponent(() => import('../screens/services/services'), 'ServicesScreen'),
});

const service = createRoute({
  getParentRoute: () => root,
  path: '/services/$namespace/$service',
  validateSearch: texts('tab', 'q', 'health', 'instance'),
  component: lazyRouteComponent(() => import('../screens/service/service'), 'ServiceScreen'),
});

const dependencies = createRoute({
  getParentRoute: () => root,
  path: '/dependencies',
  component: lazyRouteComponent(() => import('../screens/dependencies/dependencies'), 'DependenciesScreen'),
});

const traces = createRoute({
  getParentRoute: () => root,
  path: '/traces',
  validateSearch: texts('q', 'status', 'trace'),
  component: lazyRouteComponent(() => import('../screens/traces/traces'), 'TracesScreen'),
});

const alerts = createRoute({
  getParentRoute: () => root,
  path: '/alerts',
  validateSearch: texts('show'),
  component: lazyRouteComponent(() => import('../screens/alerts/alerts'), 'AlertsScreen'),
});

const audit = createRoute({
  getParentRoute: () => root,
  path: '/audit',
  validateSearch: texts('user', 'action', 'object', 'outcome'),
  component: lazyRouteComponent(() => import('../screens/audit/audit'), 'AuditScreen'),
});

const config = createRoute({
  getParentRoute: () => root,
  path: '/config',
  component: lazyRouteComponent(() => import('../screens/config/config'), 'ConfigScreen'),
});

const access = createRoute({
  getParentRoute: () => root,
  path: '/access',
  validateSearch: texts('tab'),
  component: lazyRouteComponent(() => import('../screens/access/access'), 'AccessScreen'),
});

export const router = createRouter({
  routeTree: root.addChildren([overview, cluster, services, service, dependencies, traces, alerts, audit, config, access]),
  history: createHashHistory(),
  // Plain text both ways: an instance called "5" or "true" stays a text.
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
