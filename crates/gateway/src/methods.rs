//! A set of methods, as a policy names it.

use hyper::Method;

/// A set of methods.
#[derive(Debug, Default)]
pub(crate) struct Methods(Vec<Method>);

impl Methods {
    pub(crate) fn new(names: &[String]) -> Self {
        Self(names.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect())
    }

    pub(crate) fn has(&self, method: &Method) -> bool {
        self.0.contains(method)
    }
}
