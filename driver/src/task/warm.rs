//! Compiles a guest before the task that runs it starts.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use tokio::sync::Notify;

use super::Tasks;
use super::config::{Serve, Wasm};
use super::error::Error;
use super::wasm::compiler::{Code, Wanted};
use super::wasm::guest;
use super::{spec, start};

/// The options of a `wasm` block that change the code of a guest.
#[derive(Debug, Clone, Default)]
pub struct CodeOptions {
    /// It has a `serve` block.
    pub serve: bool,
    /// It has `fuel`.
    pub fuel: bool,
    /// `backtrace_details = true`.
    pub backtrace_details: bool,
    /// Lines of `proposals`, such as `simd` and `false`.
    pub proposals: BTreeMap<String, String>,
}

impl Tasks {
    /// Compiles `module` unless its code is in the cache of this node; gives the path of the code. `name` is for messages.
    /// When `stopped` is notified, the compilation is given up.
    pub async fn warm(
        &self,
        module: File,
        name: &str,
        options: &CodeOptions,
        stopped: &Notify,
    ) -> Result<PathBuf, Error> {
        let node = self.shared.node()?;
        start::prepare_view(&node)?;
        let flags = guest::compiler_flags(&options.wasm()?)?;
        let wanted = Wanted {
            namespace: &String::new(),
            job: &String::new(),
            name,
            flags: &flags,
            serves: options.serve,
            stopped,
        };
        let code = self.shared.compiler.code_of(&self.shared.systemd, &node.installation, module, wanted);
        let Code { path, lease } = code.await?;
        let size = std::fs::metadata(&path).map_or(0, |code| code.len());
        // What is larger than the cache is evicted when nobody waits for it any more.
        drop(lease);
        if size > node.installation.cache_size {
            return Err(Error::NotKept { size, cache: node.installation.cache_size });
        }
        Ok(path)
    }
}

impl CodeOptions {
    /// The block.
    fn wasm(&self) -> Result<Wasm, spec::Error> {
        let wrong = |source| spec::Error::Defaults { source: Box::new(source) };
        let serve = self.serve.then(|| Serve::decode(&[])).transpose().map_err(wrong)?;
        Ok(Wasm {
            serve,
            fuel: self.fuel.then_some(1),
            backtrace_details: self.backtrace_details,
            proposals: self.proposals.clone(),
            ..Wasm::decode(&[]).map_err(wrong)?
        })
    }
}
