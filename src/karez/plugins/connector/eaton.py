"""Connector for some metrics of the devices of Eaton DCIM.

The same as `eaton_telemetry`, under the name that goes with the dispatcher `eaton`, whose entities are
`{"device": id, "metrics": [ma_id, ...]}`.

```yaml
connectors:
  - type: eaton
    base_url: https://dcim.example.com
    output_format: simple
```
"""

from karez.plugins.connector.eaton_telemetry import Connector

__all__ = ["Connector"]
