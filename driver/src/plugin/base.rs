//! What Nomad asks every plugin: its name and version, its configuration schema, its configuration.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use proto::base::base_plugin_server::BasePlugin;
use proto::base::{
    ConfigSchemaRequest, ConfigSchemaResponse, PluginInfoRequest, PluginInfoResponse, PluginType,
    SetConfigRequest, SetConfigResponse,
};
use tonic::{Request, Response, Status};

use super::schema;
use crate::task::Tasks;
use crate::task::config::PluginConfig;
use crate::task::config::options::Block;

/// The driver's name in a job.
pub const NAME: &str = "systemd";
/// The version of Nomad's plugin interface that the driver speaks.
const API_VERSION: &str = "v0.1.0";

pub(super) struct Base {
    pub(super) tasks: Tasks,
    /// The directory of this process's socket, and of the sockets of earlier processes.
    pub(super) socket_dir: PathBuf,
    /// Speed of one core, in MHz.
    pub(super) core_speed: Arc<OnceLock<f64>>,
}

#[tonic::async_trait]
impl BasePlugin for Base {
    async fn plugin_info(
        &self,
        _: Request<PluginInfoRequest>,
    ) -> Result<Response<PluginInfoResponse>, Status> {
        Ok(Response::new(PluginInfoResponse {
            r#type: PluginType::Driver.into(),
            plugin_api_versions: vec![API_VERSION.to_owned()],
            plugin_version: env!("CARGO_PKG_VERSION").to_owned(),
            name: NAME.to_owned(),
        }))
    }

    async fn config_schema(
        &self,
        _: Request<ConfigSchemaRequest>,
    ) -> Result<Response<ConfigSchemaResponse>, Status> {
        Ok(Response::new(ConfigSchemaResponse { spec: Some(schema::block(PluginConfig::OPTIONS)) }))
    }

    /// Nomad calls this up to four times in the life of an agent, mostly to validate the values. Touches nothing until
    /// the agent sends its own configuration, which it sends only to the one process that will run tasks.
    async fn set_config(
        &self,
        request: Request<SetConfigRequest>,
    ) -> Result<Response<SetConfigResponse>, Status> {
        let SetConfigRequest { msgpack_config, nomad_config, plugin_api_version: _ } = request.into_inner();
        let config = PluginConfig::decode(&msgpack_config)
            .map_err(|error| Status::invalid_argument(format!("plugin {}", crate::chain(&error))))?;
        self.tasks.configure(config).map_err(|error| Status::invalid_argument(crate::chain(&error)))?;
        if let Some(driver) = nomad_config.and_then(|config| config.driver) {
            if let Some(speed) = driver.topology.as_ref().and_then(super::convert::core_speed) {
                // An agent sends the same value again and again.
                let _ = self.core_speed.set(speed);
            }
            self.tasks.serve();
            let directory = self.socket_dir.clone();
            tokio::task::spawn_blocking(move || super::sweep(&directory));
        }
        Ok(Response::new(SetConfigResponse {}))
    }
}
