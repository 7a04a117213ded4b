//! A pool of instances, which allocates each one in half the time.

use super::instances::Linked;
use super::{Current, Handler, Server, TICK};
use crate::args::Http;
use crate::code::Code;
use crate::{guest, outcome};
use std::sync::Arc;
use tokio::time::sleep;
use wasmtime::component::Component;
use wasmtime::error::Context as _;
use wasmtime::{Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, Result};

const MEMORIES: u32 = 2;
const TABLES: u32 = 8;
const CORE_INSTANCES: u32 = 20;
/// The default. Large programs have some thousand functions whose address is taken.
pub(super) const TABLE_ELEMENTS: usize = 20_000;

impl Server {
    /// From the first call on, prepares faster instances for later requests.
    pub(super) fn make_pool(self: &Arc<Self>, handler: &Arc<Current>) {
        handler.replaced.call_once(|| {
            let (server, handler) = (Arc::clone(self), Arc::clone(handler));
            let make = move || match server.pooled() {
                Ok(Some(linked)) => {
                    server.pooled_engine.get_or_init(|| linked.engine.clone());
                    handler.set(Handler::new(server.instances(linked)));
                }
                Ok(None) => {}
                // Address space may be limited.
                Err(error) => outcome::say(&format!(
                    "no pool of instances, so that each takes longer: {}",
                    outcome::causes(&error)
                )),
            };
            tokio::spawn(async {
                // The answer goes first, even with a single processor.
                sleep(TICK).await;
                tokio::task::spawn_blocking(make).await
            });
        });
    }

    /// The guest, allocated from a pool, if it fits into one.
    fn pooled(&self) -> Result<Option<Arc<Linked>>> {
        let mut config = guest::config(&self.guest.wasm)?;
        let elements = self.guest.wasm.max_table_elements.unwrap_or(TABLE_ELEMENTS);
        config.allocation_strategy(pool(&self.http, elements)?);
        let code = self.artifact.load(&config)?;
        match &code {
            Code::Component(component) if fits(component, elements) => {
                Linked::new(code, self.http.max_concurrent_requests).map(Some)
            }
            _ => Ok(None),
        }
    }
}

fn pool(http: &Http, table_elements: usize) -> Result<InstanceAllocationStrategy> {
    /// The part of an instance's memory that is zeroed instead of returned to the kernel, in bytes.
    const KEEP: usize = 128 << 10;
    let instances =
        u32::try_from(http.max_concurrent_requests).context("--max-concurrent-requests is too large")?;
    let of = |each: u32| instances.saturating_mul(each);
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(of(1))
        .total_core_instances(of(CORE_INSTANCES))
        .total_memories(of(MEMORIES))
        .total_tables(of(TABLES))
        // All of them may be in one module.
        .max_memories_per_module(MEMORIES)
        .max_tables_per_module(TABLES)
        .table_elements(table_elements)
        // A request that waits within the guest has a stack, and an instance keeps one for the next request.
        .total_stacks(of(2))
        .total_gc_heaps(of(1))
        .linear_memory_keep_resident(KEEP)
        .table_keep_resident(KEEP)
        .async_stack_keep_resident(KEEP)
        // wasmtime 48 asks the kernel for written pages that are present (PAGEMAP_SCAN). A page that is swapped out, or just
        // being moved, is neither reset nor returned, and the next request finds what an earlier one has written there.
        .pagemap_scan(Enabled::No);
    Ok(InstanceAllocationStrategy::Pooling(pool))
}

fn fits(component: &Component, table_elements: usize) -> bool {
    component.resources_required().is_some_and(|needs| {
        needs.num_memories <= MEMORIES
            && needs.num_tables <= TABLES
            && needs.max_initial_table_size.is_none_or(|elements| elements <= table_elements as u64)
    })
}
