# For the configuration of the Nomad agent, such as /etc/nomad.d/systemd.hcl. The package has put the driver into
# /opt/nomad/data/plugins, where an agent with `data_dir = "/opt/nomad/data"` looks; others name the package's own
# directory, which only root can write to.

# plugin_dir = "/usr/libexec/nomad/plugins"

plugin "nomad-driver-systemd" {
  config {
    # For tenants who do not trust each other; see SECURITY.md.
    # sandbox_floor    = "standard"
    # allow_caps       = ["net_bind_service"]
    # denied_host_uids = "0,1000-59999"
  }
}
