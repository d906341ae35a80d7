//! A job's variables.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One variable. Later entries of a list win over earlier ones of the same key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name.
    pub key: String,
    /// Its text; for [`Variable::file`] the content of the file whose path the job sees.
    pub value: String,
    /// May be printed.
    #[serde(default)]
    pub public: bool,
    /// Is hidden in the trace.
    #[serde(default)]
    pub masked: bool,
    /// The job sees the path of a file that holds the value.
    #[serde(default)]
    pub file: bool,
    /// References in the value are left as they are.
    #[serde(default)]
    pub raw: bool,
}

impl Variable {
    /// A public variable.
    pub fn public(key: impl Into<String>, value: impl Into<String>) -> Self {
        Variable { key: key.into(), value: value.into(), public: true, masked: false, file: false, raw: false }
    }

    /// A variable that is not printed and whose value is hidden in the trace.
    pub fn secret(key: impl Into<String>, value: impl Into<String>) -> Self {
        Variable { public: false, masked: true, ..Variable::public(key, value) }
    }
}

/// Values of variables that are not public never reach a log by way of `{:?}`.
impl fmt::Debug for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.public && !self.masked { self.value.as_str() } else { "[hidden]" };
        write!(f, "{}={value:?}", self.key)
    }
}
