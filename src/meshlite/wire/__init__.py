"""What all services share of HTTP: problems, JSON, routes and their documents, the boundary, the listener."""
