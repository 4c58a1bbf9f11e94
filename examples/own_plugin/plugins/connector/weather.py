"""Reads the sensors of a weather station, which keeps their last values in a text file.

```yaml
connectors:
  - type: weather
    file: station.txt
```
"""

from pathlib import Path

from karez import ConnectorConfig, Failed, NotConnected, PullConnector


class Config(ConnectorConfig):
    file: Path
    """File of the station, one `name value` a line."""


class Connector(PullConnector[Config]):
    def fetch(self, entities: list[str]) -> list[dict | Failed]:
        try:
            values = dict(line.split() for line in self.config.file.read_text().splitlines())
            at = self.config.file.stat().st_mtime
        except OSError as error:
            raise NotConnected(f"the station is away: {error}") from error
        return [
            {"name": name, "value": float(values[name]), "timestamp": at} if name in values else Failed(name, "no such sensor")
            for name in entities
        ]
