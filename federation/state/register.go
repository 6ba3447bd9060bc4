package state

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"

	"pangaea/federation/tunnel"
)

const (
	checkTTL   = 15 * time.Second
	checkEvery = 5 * time.Second
)

// Register keeps a gateway in Consul's catalog as the service "pangaea-gateway" until the context ends, then removes
// it. It rides out a Consul that is away or forgets.
func (s *Store) Register(ctx context.Context, record GatewayRecord) error {
	service, err := registration(record)
	if err != nil {
		return err
	}
	defer s.deregister(service.ID)
	registered := false
	for ctx.Err() == nil {
		err = s.heartbeat(ctx, service, registered)
		if err != nil && ctx.Err() == nil {
			s.logger.Warn("cannot keep the gateway in Consul's catalog, trying again", "error", err)
		}
		registered = err == nil
		pause(ctx, checkEvery)
	}
	return ctx.Err()
}

func registration(record GatewayRecord) (*api.AgentServiceRegistration, error) {
	host, portText, err := net.SplitHostPort(record.HTTPAddr)
	if err != nil {
		return nil, fmt.Errorf("cannot register the gateway at %q: %w", record.HTTPAddr, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("cannot register the gateway at %q: %w", record.HTTPAddr, err)
	}
	return &api.AgentServiceRegistration{
		ID: tunnel.ServiceGateway + "-" + record.ID, Name: tunnel.ServiceGateway, Address: host, Port: port,
		Meta: map[string]string{"id": record.ID, "tunnel": record.TunnelAddr, "version": record.Version},
		Check: &api.AgentServiceCheck{
			TTL: checkTTL.String(), Status: api.HealthPassing, DeregisterCriticalServiceAfter: "5m",
		},
	}, nil
}

// heartbeat's output never changes: a check whose output changes costs Consul a write each time.
func (s *Store) heartbeat(ctx context.Context, service *api.AgentServiceRegistration, registered bool) error {
	if !registered {
		err := s.client.Agent().ServiceRegisterOpts(service, api.ServiceRegisterOpts{}.WithContext(ctx))
		if err != nil {
			return s.translate("register the gateway", err)
		}
	}
	err := s.client.Agent().UpdateTTLOpts("service:"+service.ID, "serving", api.HealthPassing, (&api.QueryOptions{}).WithContext(ctx))
	return s.translate("report the gateway's health", err)
}

func (s *Store) deregister(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err := s.client.Agent().ServiceDeregisterOpts(id, (&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		s.logger.Debug("cannot remove the gateway from Consul's catalog", "error", err)
	}
}

// Gateways lists the gateways that are healthy now.
func (s *Store) Gateways(ctx context.Context) ([]GatewayRecord, error) {
	services, _, err := s.client.Health().Service(tunnel.ServiceGateway, "", true, read(ctx))
	if err != nil {
		return nil, s.translate("list gateways", err)
	}
	records := make([]GatewayRecord, 0, len(services))
	for _, entry := range services {
		service := entry.Service
		records = append(records, GatewayRecord{
			ID: service.Meta["id"], TunnelAddr: service.Meta["tunnel"], Version: service.Meta["version"],
			HTTPAddr: net.JoinHostPort(service.Address, strconv.Itoa(service.Port)),
		})
	}
	return records, nil
}
